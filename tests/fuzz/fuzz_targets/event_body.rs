//! Whatever arrives at `/emqx/events` is parsed or refused, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let _ = fleetgate::http::emqx::events::wire::parse(body);
});
