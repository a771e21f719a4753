//! The PROXY protocol, version 2: a load balancer's word for whom it speaks.
//!
//! Read only from networks that the policy trusts, and there always. Refuses whatever it does not understand completely:
//! a header that is guessed at would be a forged address. Format:
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What every header begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Most bytes after those: addresses and extensions. Balancers send some dozens, or some hundreds where they tell of TLS.
const MOST: usize = 2048;
/// The extension that holds a checksum over the whole header, and how long that is.
const CHECKSUM: (u8, usize) = (0x03, 4);

/// Whom a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// From the balancer itself, which looks whether somebody is there.
    Balancer,
    /// From this client.
    Client(SocketAddr),
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// It does not begin as one.
    #[error("no PROXY protocol header, version 2, from a trusted proxy")]
    Missing,
    /// It says something that has no meaning here.
    #[error("the PROXY protocol header {0}")]
    Malformed(&'static str),
}

/// Reads a header and not a byte more.
///
/// # Errors
/// When there is none, it is not complete, or has no clear meaning.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Told> {
    let bad = |error: BadHeader| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let length = announced(&header).map_err(bad)?;
    header.resize(FIXED + length, 0);
    if let Some(rest) = header.get_mut(FIXED..) {
        stream.read_exact(rest).await?;
    }
    parse(&header).map_err(bad)
}

/// Judges a whole header, without what follows it.
///
/// # Errors
/// When it is none, or has no clear meaning.
pub fn parse(header: &[u8]) -> Result<Told, BadHeader> {
    let length = announced(header)?;
    let rest = header.get(FIXED..).filter(|rest| rest.len() == length);
    let rest = rest.ok_or(BadHeader::Malformed("has another length than it says"))?;
    let (command, family) = (header.get(12), header.get(13));
    match (command, family) {
        // What a balancer says of itself has no meaning, whatever its family; its extensions have the same form.
        (Some(0x20), Some(0x00)) => extensions(header, 0).map(|()| Told::Balancer),
        (Some(0x20), Some(0x11)) => extensions(header, 12).map(|()| Told::Balancer),
        (Some(0x20), Some(0x21)) => extensions(header, 36).map(|()| Told::Balancer),
        (Some(0x21), Some(0x11)) => {
            let address = octets::<4>(rest, 0).map(Ipv4Addr::from).map(IpAddr::V4);
            let port = octets::<2>(rest, 8).map(u16::from_be_bytes);
            extensions(header, 12)?;
            client(address, port)
        }
        (Some(0x21), Some(0x21)) => {
            let address = octets::<16>(rest, 0).map(Ipv6Addr::from).map(IpAddr::V6);
            let port = octets::<2>(rest, 32).map(u16::from_be_bytes);
            extensions(header, 36)?;
            client(address, port)
        }
        (Some(0x20 | 0x21), _) => Err(BadHeader::Malformed("is not of TCP over IPv4 or IPv6")),
        _ => Err(BadHeader::Malformed("has another version or command")),
    }
}

fn client(address: Option<IpAddr>, port: Option<u16>) -> Result<Told, BadHeader> {
    let (address, port) = address.zip(port).ok_or(BadHeader::Malformed("is too short for its addresses"))?;
    let real = address.to_canonical();
    let broadcast = real == IpAddr::V4(Ipv4Addr::BROADCAST);
    if real.is_unspecified() || real.is_multicast() || broadcast {
        return Err(BadHeader::Malformed("names an address that nobody has"));
    }
    Ok(Told::Client(SocketAddr::new(address, port)))
}

/// How many bytes follow the fixed ones.
fn announced(header: &[u8]) -> Result<usize, BadHeader> {
    if !header.starts_with(&SIGNATURE) {
        return Err(BadHeader::Missing);
    }
    let length = octets::<2>(header, 14).map(u16::from_be_bytes).map(usize::from);
    let length = length.ok_or(BadHeader::Malformed("is cut short"))?;
    if length > MOST {
        Err(BadHeader::Malformed("is longer than any that an honest proxy sends"))
    } else {
        Ok(length)
    }
}

/// Judges what follows the addresses: type, length and value each; a checksum must be right.
fn extensions(header: &[u8], addresses: usize) -> Result<(), BadHeader> {
    let mut at = FIXED + addresses;
    if at > header.len() {
        return Err(BadHeader::Malformed("is too short for its addresses"));
    }
    while at < header.len() {
        let kind = header.get(at).copied();
        let length = octets::<2>(header, at + 1).map(u16::from_be_bytes).map(usize::from);
        let Some((kind, length)) = kind.zip(length) else {
            return Err(BadHeader::Malformed("ends within an extension"));
        };
        let Some(value) = header.get(at + 3..at + 3 + length) else {
            return Err(BadHeader::Malformed("ends within an extension"));
        };
        if kind == CHECKSUM.0 {
            if length != CHECKSUM.1 {
                return Err(BadHeader::Malformed("has a checksum of another length"));
            }
            let without = header.get(..at + 3).unwrap_or_default().iter();
            let after = header.get(at + 3 + length..).unwrap_or_default().iter();
            let sum = crc32c(without.chain(&[0; CHECKSUM.1]).chain(after));
            if sum.to_be_bytes() != value {
                return Err(BadHeader::Malformed("has a checksum that is wrong"));
            }
        }
        at += 3 + length;
    }
    Ok(())
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: a header is short.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn v4(source: [u8; 4], more: &[u8]) -> Vec<u8> {
        header(0x21, 0x11, &[&source[..], &[192, 0, 2, 1], &[0xd4, 0x31], &[0x20, 0xfb], more].concat())
    }

    fn v6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        header(0x21, 0x21, &[&source.octets()[..], &[0; 16], &[0, 7], &[0, 8]].concat())
    }

    #[test]
    fn a_client_is_believed_and_a_balancer_speaks_for_itself() {
        let client = |text: &str| Ok(Told::Client(text.parse().unwrap()));
        assert_eq!(parse(&v4([198, 51, 100, 7], &[])), client("198.51.100.7:54321"));
        assert_eq!(parse(&v6("2001:db8::7")), client("[2001:db8::7]:7"));
        // A name that TLS gave, and what another type means is nobody's business here.
        assert_eq!(parse(&v4([198, 51, 100, 7], b"\x02\x00\x01x\xea\x00\x00")), client("198.51.100.7:54321"));
        assert_eq!(parse(&header(0x20, 0x00, &[])), Ok(Told::Balancer));
        assert_eq!(parse(&header(0x20, 0x11, &[0; 12])), Ok(Told::Balancer));
    }

    #[test]
    fn i1_fail_closed_on_whatever_has_no_clear_meaning() {
        let good = v4([198, 51, 100, 7], &[]);
        for (bad, wrong) in [
            (b"PROXY TCP4 198.51.100.7 192.0.2.1 1 2\r\n".to_vec(), "no PROXY protocol header"),
            (vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01], "no PROXY protocol header"),
            (Vec::new(), "no PROXY protocol header"),
            (good[..15].to_vec(), "is cut short"),
            (good[..good.len() - 1].to_vec(), "has another length"),
            ([&good[..], &[0]].concat(), "has another length"),
            (header(0x11, 0x11, &[1; 12]), "another version or command"),
            (header(0x22, 0x11, &[1; 12]), "another version or command"),
            (header(0x21, 0x00, &[]), "is not of TCP"),
            (header(0x21, 0x12, &[1; 12]), "is not of TCP"),
            (header(0x21, 0x31, &[1; 216]), "is not of TCP"),
            (header(0x20, 0x55, &[]), "is not of TCP"),
            (header(0x21, 0x11, &[1; 11]), "too short for its addresses"),
            (header(0x21, 0x21, &[1; 35]), "too short for its addresses"),
            (v4([0; 4], &[]), "an address that nobody has"),
            (v4([255; 4], &[]), "an address that nobody has"),
            (v4([224, 0, 0, 1], &[]), "an address that nobody has"),
            (v6("::"), "an address that nobody has"),
            (v6("::ffff:0.0.0.0"), "an address that nobody has"),
            (v6("ff02::1"), "an address that nobody has"),
            (v4([198, 51, 100, 7], &[2]), "ends within an extension"),
            (v4([198, 51, 100, 7], &[2, 0, 2, 0]), "ends within an extension"),
            (v4([198, 51, 100, 7], &[3, 0, 4, 0, 0, 0, 0]), "has a checksum that is wrong"),
            (v4([198, 51, 100, 7], &[3, 0, 1, 0]), "has a checksum of another length"),
            (header(0x21, 0x11, &[1; MOST + 1]), "is longer than any"),
        ] {
            let told = parse(&bad).expect_err(wrong).to_string();
            assert!(told.contains(wrong), "{told} for {bad:02x?}");
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        let mut header = v4([198, 51, 100, 7], &[3, 0, 4, 0, 0, 0, 0]);
        let sum = crc32c(header.iter()).to_be_bytes();
        let end = header.len() - 4;
        header[end..].copy_from_slice(&sum);
        assert!(parse(&header).is_ok());
        // The type alone could be bent into one that is no checksum.
        for index in (16..header.len()).filter(|index| *index != end - 3) {
            let mut bent = header.clone();
            bent[index] ^= 0x40;
            assert!(parse(&bent).is_err(), "byte {index}");
        }
    }

    #[tokio::test]
    async fn what_follows_a_header_is_left_for_tls() {
        let sent = [v4([198, 51, 100, 7], &[]), b"hello".to_vec()].concat();
        let mut stream = sent.as_slice();
        assert_eq!(read(&mut stream).await.unwrap(), Told::Client("198.51.100.7:54321".parse().unwrap()));
        assert_eq!(stream, b"hello");
        let missing = read(&mut &b"\x16\x03\x01 a hello of TLS"[..]).await.unwrap_err();
        assert!(missing.to_string().contains("no PROXY protocol header"), "{missing}");
        assert!(read(&mut &sent[..20]).await.is_err());
    }

    proptest! {
        #[test]
        fn bytes_never_panic(command in 0x20_u8..0x23, family in any::<u8>(), rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = header(command, family, &rest);
            if let Ok(Told::Client(address)) = parse(&whole) {
                prop_assert!(!address.ip().is_unspecified());
            }
            for end in 0..whole.len() {
                prop_assert!(parse(&whole[..end]).is_err());
            }
        }
    }
}
