//! Manifests of copies: what is read is written and read again the same.
#![no_main]

use stepdown::checkpoint::manifest::Manifest;

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    if let Ok(manifest) = Manifest::decode(content) {
        let written = manifest.encode().expect("what was read can be written");
        assert_eq!(Manifest::decode(&written), Ok(manifest));
    }
});
