//! Whatever a device sends becomes JSON that PostgreSQL can hold, and is judged without a panic or an
//! overflow of the stack.
#![no_main]

use std::sync::LazyLock;

use fleetgate::domain::schema::StateSchema;
use fleetgate::domain::value::StateValue;

static RECURSIVE: LazyLock<StateSchema> = LazyLock::new(|| {
    let schema = r##"{"anyOf":[{"type":"number","multipleOf":0.01},{"type":"string","pattern":"^(a|b)*$"},
        {"type":"array","items":{"$ref":"#"},"uniqueItems":true},
        {"type":"object","additionalProperties":{"$ref":"#"},"required":["a"]}]}"##;
    StateSchema::read(schema).expect("a good schema")
});

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    if let Some(value) = StateValue::read(payload) {
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(value.json()).is_ok());
        let _ = RECURSIVE.check(value.judged());
    }
});
