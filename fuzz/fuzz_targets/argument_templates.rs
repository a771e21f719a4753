//! Argument templates: any text parses or is refused, and what is rendered is the text with its placeholders filled.
#![no_main]

use std::collections::BTreeMap;

use bridgeward::domain::parameters::DerivedParameters;
use bridgeward::policy::argv::Template;
use libfuzzer_sys::fuzz_target;

// The template, then, after the first line feed, what every placeholder is filled with.
fuzz_target!(|data: &str| {
    let (text, value) = data.split_once('\n').unwrap_or((data, ""));
    let Ok(template) = Template::parse(text) else { return };
    let names: Vec<_> = template.placeholders().cloned().collect();
    let values: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), value.into())).collect();
    match template.render(&DerivedParameters(values)) {
        Err(_) => assert!(value.contains('\0')),
        Ok(rendered) => {
            let mut expected = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
            for name in &names {
                expected = expected.replacen(&format!("{{{name}}}"), value, 1);
            }
            // Where text or value hold the two marks or braces of their own, only the length is known.
            if !data.contains(['\u{1}', '\u{2}']) && !value.contains(['{', '}']) && !text.contains("{{{") && !text.contains("}}}") {
                assert_eq!(rendered, expected.replace('\u{1}', "{").replace('\u{2}', "}"));
            }
            if !names.is_empty() {
                assert!(template.render(&DerivedParameters::default()).is_err());
            }
        }
    }
});
