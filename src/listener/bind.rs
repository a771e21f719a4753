//! Addresses to listening sockets.
//!
//! Errors name the address and say what to do about it.

use std::io;
use std::net::SocketAddr;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps ready for us to accept.
const BACKLOG: u32 = 1024;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}; {advice}")]
pub struct BindError {
    /// Which one.
    pub address: SocketAddr,
    /// What to do.
    pub advice: &'static str,
    /// What the system says.
    pub reason: io::Error,
}

/// Listens on every address, or on none. Needs a tokio runtime.
///
/// An IPv6 wildcard (`[::]`) takes IPv4 too, unless an IPv4 address with the same port is asked for beside it.
///
/// # Errors
/// The first address that cannot be had.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let listen = |address: &SocketAddr| {
        let ipv4_beside = address.is_ipv6()
            && addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
        listen(*address, ipv4_beside).map_err(|reason| BindError {
            address: *address,
            advice: advice(reason.kind()),
            reason,
        })
    };
    addresses.iter().map(listen).collect()
}

fn listen(address: SocketAddr, only_ipv6: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if only_ipv6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // A restart must not wait for the closed connections of the former process.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn advice(kind: io::ErrorKind) -> &'static str {
    if kind == io::ErrorKind::AddrInUse {
        "another process has it (`ss -ltnp` shows which): stop that one, or choose another port in listen.address"
    } else if kind == io::ErrorKind::PermissionDenied {
        "ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a port from 1024 on in listen.address, such as 8443"
    } else if kind == io::ErrorKind::AddrNotAvailable {
        "no interface of this machine has it (`ip address` lists them): correct listen.address"
    } else {
        "correct listen.address"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let first = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let taken = first[0].local_addr().unwrap();
        let error = bind(&["127.0.0.1:0".parse().unwrap(), taken]).unwrap_err();
        assert_eq!(error.address, taken);
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()) && text.contains("another process has it"), "{text}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        let error = bind(&["192.0.2.1:0".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("no interface"), "{error}");
    }

    #[tokio::test]
    async fn both_wildcards_share_a_port() {
        let Ok(probe) = bind(&["[::]:0".parse().unwrap()]) else { return };
        let port = probe[0].local_addr().unwrap().port();
        drop(probe);
        let both = [format!("[::]:{port}").parse().unwrap(), format!("0.0.0.0:{port}").parse().unwrap()];
        assert_eq!(bind(&both).unwrap().len(), 2);
    }
}
