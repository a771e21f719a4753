//! A client's certificate, to the name and extensions that rules ask about.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(presented) = bridgeward::trust::certificate::read(data) {
        let certificate = &presented.certificate;
        assert!(!certificate.certname.is_empty());
        assert!(!certificate.certname.chars().any(char::is_control));
        assert!(!certificate.extensions.values().any(|value| value.chars().any(char::is_control)));
    }
});
