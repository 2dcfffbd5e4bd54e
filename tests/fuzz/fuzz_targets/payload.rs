//! Whatever a device sends becomes JSON that PostgreSQL can hold, and is judged without a panic or an
//! overflow of the stack.
#![no_main]

use std::sync::{Arc, LazyLock};

use fleetgate::domain::schema::StateSchema;
use fleetgate::domain::value::StateValue;
use tokio::runtime::{Builder, Runtime};

static RECURSIVE: LazyLock<Arc<StateSchema>> = LazyLock::new(|| {
    let schema = r##"{"anyOf":[{"type":"number","multipleOf":0.01},{"type":"string","pattern":"^(a|b)*$"},
        {"type":"array","items":{"$ref":"#"},"uniqueItems":true},
        {"type":"object","additionalProperties":{"$ref":"#"},"required":["a"]}]}"##;
    Arc::new(StateSchema::read(schema).expect("a good schema"))
});
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    if let Some(value) = StateValue::read(payload) {
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(value.json()).is_ok());
        let _ = RUNTIME.block_on(RECURSIVE.find_violation(value.schema_input())).expect("judged");
    }
});
