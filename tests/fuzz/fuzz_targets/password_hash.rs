//! A stored hash is parsed or refused, and what is accepted is within the bounds and can be checked.
#![no_main]

use fleetgate::domain::password_hash::{MAX_MEMORY_KIB, PasswordHash};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(hash) = PasswordHash::parse(text) else { return };
    let mut pieces = Vec::new();
    hash.write_identity(|piece| pieces.push(piece.to_vec()));
    let memory_kib = u32::from_le_bytes(pieces[0].as_slice().try_into().expect("four bytes"));
    assert!(memory_kib <= MAX_MEMORY_KIB);
    // Larger ones only cost time.
    if memory_kib <= 64 {
        assert!(!hash.verify(text.as_bytes()), "a hash of itself");
    }
});
