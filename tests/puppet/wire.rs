//! Ends of a connection that behave badly: silent, lossy, without TLS. Each serves on a port of its own until dropped.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A port that nobody has asked anything, as the test can see afterwards.
pub struct Witness(TcpListener);

impl Witness {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Whether somebody connected since the last time.
    pub fn was_asked(&self) -> bool {
        self.0.accept().is_ok()
    }
}

/// What passes through a proxy, connection by connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Closed at once.
    Refused,
    /// The request arrives, its answer does not.
    AnswerLost,
    /// As it should be.
    Passed,
}

/// A proxy in front of a gateway, which lets the first connections meet their fate, and passes those that follow.
pub fn proxy(to: SocketAddr, fates: &[Fate]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let fates = fates.to_vec();
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let client = client.unwrap();
            match fates.get(number).copied().unwrap_or(Fate::Passed) {
                Fate::Refused => drop(client),
                fate @ (Fate::AnswerLost | Fate::Passed) => {
                    pass(client, TcpStream::connect(to).unwrap(), fate);
                }
            }
        }
    });
    port
}

/// Carries both directions. The gateway sends one flight for the client's first, and nothing more but its answer: it
/// gives out no session tickets. So what it sends after the client's second flight is the answer.
fn pass(client: TcpStream, server: TcpStream, fate: Fate) {
    let answering = Arc::new(AtomicBool::new(false));
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn({
        let answering = Arc::clone(&answering);
        move || {
            let mut flights = 0;
            carry(&mut from_client, &mut to_server, || {
                flights += 1;
                answering.store(flights > 1, Ordering::SeqCst);
                true
            });
        }
    });
    std::thread::spawn(move || {
        let (mut from_server, mut to_client) = (server, client);
        carry(&mut from_server, &mut to_client, || fate == Fate::Passed || !answering.load(Ordering::SeqCst));
    });
}

fn carry(from: &mut TcpStream, to: &mut TcpStream, mut may_pass: impl FnMut() -> bool) {
    let mut buffer = [0; 16384];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !may_pass() || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A server without TLS that answers 202 to everything, and remembers what it was asked.
pub struct Plain {
    pub port: u16,
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Plain {
    pub fn new(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        std::thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                for client in listener.incoming() {
                    let mut client = client.unwrap();
                    let mut request = Vec::new();
                    let mut buffer = [0; 4096];
                    while !is_whole(&request) {
                        let count = client.read(&mut buffer).unwrap_or(0);
                        request.extend_from_slice(&buffer[..count]);
                        if count == 0 {
                            break;
                        }
                    }
                    asked.lock().unwrap().push(String::from_utf8(request).unwrap());
                    let _ = client.write_all(answer.as_bytes());
                }
            }
        });
        Self { port, asked }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Whether a request has arrived with all of its body.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    body.len() >= length.unwrap_or(0)
}
