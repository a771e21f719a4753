//! What a broken-into gate sends to workers in another process: a question, which reads back as it is written, or
//! nothing.
#![no_main]

use bridgeward::queue::frame::{encode, parse};
use bridgeward::queue::question::Question;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(question) = parse::<Question>(data) else { return };
    let bytes = encode(&question).unwrap();
    assert_eq!(parse::<Question>(&bytes[4..]).unwrap(), question);
    if let Question::Submit(request) = question {
        drop(request.into_parts());
    }
});
