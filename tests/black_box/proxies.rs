//! Behind a load balancer: the PROXY protocol's word counts, from the networks that the policy names and from nowhere else.

use std::io::Read as _;
use std::net::{Ipv6Addr, TcpStream};
use std::time::Instant;

use crate::support::*;

const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n[[allow]]\nkey = [\"jenkins\"]\nnetworks = [\"198.51.100.0/24\"]\n[run]\nsteps = [[\"/bin/true\"]]\n";

fn site(limits: &str) -> Site {
    let site = Site::with_limits(limits);
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    let text = text.replace("[queue]", "trusted_proxies = [\"127.0.0.1\"]\n[queue]");
    site.write("gateway.toml", &text, 0o644);
    site.route("x", ROUTE);
    site
}

/// A header of version 2 for a client over IPv4, and what else stands in it.
fn header(command: u8, client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let rest = [&client[..], &[127, 0, 0, 1, 0xd4, 0x31, 0x20, 0xfb], more].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &length[..], &rest].concat()
}

/// The same for a client over IPv6.
fn header_v6(client: &str) -> Vec<u8> {
    let client: Ipv6Addr = client.parse().unwrap();
    let rest = [&client.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0xd4, 0x31, 0x20, 0xfb]].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x21, 0x21], &length[..], &rest].concat()
}

fn through(gateway: &Running, before: &[u8], ca: &str) -> std::io::Result<Tls> {
    Tls::greet(gateway.socket_from([127, 0, 0, 1]), before, ca, None)
}

#[test]
fn a_load_balancer_tells_whom_it_speaks_for() {
    let site = site("");
    let gateway = site.serve();
    let ask = |before: &[u8]| {
        let mut tls = through(&gateway, before, &site.ca_pem)?;
        tls.write(gateway.post("/x", "1").request().as_bytes())?;
        tls.read().map(|response| response.status)
    };
    assert_eq!(ask(&header(0x21, [198, 51, 100, 7], &[])).unwrap(), 202);
    // An extension that says nothing, and a client whom the rule does not allow.
    assert_eq!(ask(&header(0x21, [198, 51, 100, 8], &[4, 0, 1, 0])).unwrap(), 202);
    assert_eq!(ask(&header(0x21, [203, 0, 113, 7], &[])).unwrap(), 404);
    // The balancer itself, which is no client.
    assert_eq!(ask(&header(0x20, [198, 51, 100, 7], &[])).unwrap(), 404);
    for forged in [
        Vec::new(),
        b"PROXY TCP4 198.51.100.7 127.0.0.1 54321 8443\r\n".to_vec(),
        header(0x21, [0, 0, 0, 0], &[]),
        header(0x21, [198, 51, 100, 7], &[3, 0, 4, 0, 0, 0, 0]),
        header(0x22, [198, 51, 100, 7], &[]),
        [header(0x21, [198, 51, 100, 7], &[]), header(0x21, [198, 51, 100, 7], &[])].concat(),
    ] {
        let answered = ask(&forged);
        assert!(answered.is_err(), "{answered:?} to {forged:02x?}");
    }
    gateway
        .log
        .wait_for(|line| line.contains("no PROXY protocol header, version 2, from a trusted proxy"))
        .unwrap();
    // From elsewhere it is no TLS, and without it a client speaks for itself.
    let elsewhere =
        |before: &[u8]| Tls::greet(gateway.socket_from([127, 0, 0, 2]), before, &site.ca_pem, None);
    assert!(elsewhere(&header(0x21, [198, 51, 100, 7], &[])).is_err());
    assert!(elsewhere(&[]).unwrap().ask(&gateway.post("/x", "1").request()).is_wall());
    gateway.stop();
    let log = std::fs::read_to_string(site.path("audit.jsonl")).unwrap();
    for source in
        ["\"198.51.100.7\"", "\"198.51.100.8\"", "\"203.0.113.7\"", "\"127.0.0.1\"", "\"127.0.0.2\""]
    {
        assert!(log.contains(&format!("\"source\":{source}")), "{source}: {log}");
    }
}

#[test]
fn i7_clients_behind_a_load_balancer_are_counted_one_by_one() {
    let site = site("connections_per_source = 2\nrequests_per_source = \"3/h\"\nhandshake = \"400ms\"");
    let gateway = site.serve();
    let connect = |client| through(&gateway, &header(0x21, client, &[]), &site.ca_pem);
    let (mut one, mut other) = (connect([198, 51, 100, 1]).unwrap(), connect([198, 51, 100, 2]).unwrap());
    let _second = connect([198, 51, 100, 1]).unwrap();
    assert!(connect([198, 51, 100, 1]).is_err(), "a third one");
    for _ in 0..3 {
        assert!(one.ask(&gateway.get("/x")).is_wall());
    }
    assert_eq!(one.ask(&gateway.get("/x")).status, 429);
    assert!(other.ask(&gateway.get("/x")).is_wall());
    // Who says nothing, or half of it, is not waited for.
    for half in [&[][..], &header(0x21, [198, 51, 100, 3], &[])[..20]] {
        let mut silent = gateway.socket_from([127, 0, 0, 1]);
        std::io::Write::write_all(&mut silent, half).unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        let ended = silent.read(&mut [0]);
        let waited = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(waited) && !ended.is_ok_and(|read| read > 0), "it is still open");
    }
}

#[test]
fn i7_an_ipv6_network_of_one_customer_is_one_source() {
    let site = site("requests_per_source = \"2/h\"");
    let gateway = site.serve();
    let ask = |before: &[u8]| through(&gateway, before, &site.ca_pem).unwrap().ask(&gateway.get("/x")).status;
    for (client, status) in [
        ("2001:db8:1:2::1", 404),
        ("2001:db8:1:2:ffff::9", 404),
        ("2001:db8:1:2:3::", 429),
        ("2001:db8:1:3::1", 404),
    ] {
        assert_eq!(ask(&header_v6(client)), status, "{client}");
    }
    // IPv4 that is written as IPv6 is IPv4.
    assert_eq!(ask(&header_v6("::ffff:198.51.100.7")), 404);
    assert_eq!(ask(&header(0x21, [198, 51, 100, 7], &[])), 404);
    assert_eq!(ask(&header_v6("::ffff:198.51.100.7")), 429);
    assert_eq!(ask(&header_v6("::ffff:198.51.100.8")), 404);
}

/// Connects this often, each time with `before` before TLS, and waits until all but one have been reset: that one waits.
fn one_waits_of(gateway: &Running, before: &[u8], count: usize) -> TcpStream {
    let mut open: Vec<_> = (0..count)
        .map(|_| {
            let mut socket = gateway.socket_from([127, 0, 0, 1]);
            std::io::Write::write_all(&mut socket, before).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    while open.len() > 1 {
        assert!(Instant::now() < deadline, "{} are open", open.len());
        open.retain_mut(|socket| match socket.read(&mut [0]) {
            Ok(_) => panic!("an orderly end"),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
    }
    let socket = open.remove(0);
    socket.set_nonblocking(false).unwrap();
    socket
}

#[test]
fn a_client_behind_a_load_balancer_waits_for_a_place_and_gets_it() {
    let site = site("connections = 8\nconnections_per_source = 1\nhandshake = \"1m\"");
    let gateway = site.serve();
    let client = header(0x21, [198, 51, 100, 7], &[]);
    let first = through(&gateway, &client, &site.ca_pem).unwrap();
    let second = one_waits_of(&gateway, &client, 4);
    drop(first);
    let mut second = Tls::greet(second, &[], &site.ca_pem, None).unwrap();
    assert_eq!(second.ask(&gateway.post("/x", "1").request()).status, 202);
}

#[test]
fn i7_the_connections_of_an_ipv6_network_are_those_of_one_source() {
    let site = site("connections = 8\nconnections_per_source = 1\nhandshake = \"1m\"");
    let gateway = site.serve();
    let _first = through(&gateway, &header_v6("2001:db8:1:2::1"), &site.ca_pem).unwrap();
    let _second = one_waits_of(&gateway, &header_v6("2001:db8:1:2:ffff::9"), 4);
    let mut other = through(&gateway, &header_v6("2001:db8:1:3::1"), &site.ca_pem).unwrap();
    assert!(other.ask(&gateway.get("/x")).is_wall());
}
