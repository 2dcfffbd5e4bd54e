//! Whatever line a file has, `fleetgate import` reads or refuses it, never a panic or an overflow of the stack.
#![no_main]

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    if let Ok(line) = std::str::from_utf8(line) {
        let _ = fleetgate::fleet::imports::Item::read(line);
    }
});
