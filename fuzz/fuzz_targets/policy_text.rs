//! Policy text: anything compiles or is refused with findings that can be shown; nothing outside its arguments is read.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use bridgeward::policy::{Files, compile_text};
use libfuzzer_sys::fuzz_target;

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let file = |name: &str| (PathBuf::from(format!("/policy/{name}")), vec![b'x'; 40]);
    let program = |path: &str| (PathBuf::from(path), Vec::new());
    Files::Memory(BTreeMap::from([file("a"), file("b"), file("c"), file("d"), file("s"), program("/bin/a")]))
});

// gateway.toml, a line `---`, and the text of one route.
fuzz_target!(|data: &str| {
    let (gateway, route) = data.split_once("\n---\n").unwrap_or((data, ""));
    match compile_text(gateway, &[("r", route)], &FILES) {
        Ok(loaded) => {
            for route in loaded.policy.routes.values() {
                assert!(!route.allow.is_empty());
            }
            drop(loaded.warnings.to_string());
        }
        Err(found) => {
            assert!(found.errors() > 0);
            drop(found.to_string());
        }
    }
});
