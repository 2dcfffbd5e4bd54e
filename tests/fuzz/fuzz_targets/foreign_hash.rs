//! An imported hash is parsed or refused, what is accepted can be checked, and describes itself without what it holds.
#![no_main]

use fleetgate::domain::foreign_hash::ForeignHash;
use fleetgate::domain::password_hash::HashMemory;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(hash) = ForeignHash::parse(text) else { return };
    assert!(hash.description().len() < 64);
    // What costs more only takes time.
    if hash.is_weak() && !text.contains("i=") {
        assert!(!hash.verify_with(text.as_bytes(), &mut HashMemory::default()), "a hash of itself");
    }
});
