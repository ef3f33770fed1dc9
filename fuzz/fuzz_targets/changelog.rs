#![no_main]

#[path = "../properties.rs"]
#[expect(dead_code, reason = "each target needs one of them")]
mod properties;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| properties::changelog(input.0, input.1));
