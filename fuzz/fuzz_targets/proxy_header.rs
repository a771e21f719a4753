//! A load balancer's header: any bytes are refused or name one client.
#![no_main]

use bridgeward::listener::proxy::{Told, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Told::Client(address)) = parse(data) {
        assert!(!address.ip().is_unspecified() && !address.ip().is_multicast());
    }
});
