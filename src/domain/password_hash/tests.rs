use super::*;

/// Computed with the reference implementation's parameters: `password` / `somesalt`, m=65536, t=2,
/// p=1 (the test vector of the argon2 reference repository).
const REFERENCE: &str =
    "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

#[test]
fn the_reference_implementations_hash_verifies() {
    let hash = PasswordHash::parse(REFERENCE).unwrap();
    assert!(!hash.is_minimum_cost());
    assert!(hash.verify(b"password"));
    assert!(!hash.verify(b"passwore"));
}

#[test]
fn what_is_hashed_verifies_at_both_costs() {
    for (cost, minimum) in [(Cost::Generated, true), (Cost::Chosen, false)] {
        let text = hash_password("päss wörd".as_bytes(), &[7; 16], cost);
        let hash = PasswordHash::parse(&text).unwrap();
        assert_eq!(hash.is_minimum_cost(), minimum);
        assert!(hash.verify("päss wörd".as_bytes()));
        assert!(!hash.verify(b""));
        assert!(!hash.verify("päss wörd ".as_bytes()));
    }
}

#[test]
fn the_costs_are_the_documented_ones() {
    let generated = hash_password(b"x", &[1; 16], Cost::Generated);
    let chosen = hash_password(b"x", &[1; 16], Cost::Chosen);
    assert!(generated.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{generated}");
    assert!(chosen.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{chosen}");
}

#[test]
fn memory_is_reused_and_excess_given_back() {
    let small = PasswordHash::parse(&hash_password(b"x", &[1; 16], Cost::Chosen)).unwrap();
    let large = PasswordHash::parse(REFERENCE).unwrap();
    let mut memory = HashMemory::default();
    assert!(large.verify_with(b"password", &mut memory));
    assert!(memory.0.capacity() <= HashMemory::KEPT_BLOCKS);
    let before = memory.0.as_ptr();
    assert!(small.verify_with(b"x", &mut memory));
    assert!(small.verify_with(b"x", &mut memory));
    assert_eq!(memory.0.as_ptr(), before);
}

#[test]
fn a_hash_is_held_in_few_bytes() {
    let hash = PasswordHash::parse(&hash_password(b"x", &[1; 16], Cost::Generated)).unwrap();
    let PasswordHash::Argon2id(argon2id) = hash else { panic!("it was made here") };
    assert_eq!(argon2id.material.len(), 48);
    assert!(size_of::<PasswordHash>() <= 24);
}

#[test]
fn other_algorithms_are_named_as_such() {
    for text in [
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
        "$argon2d$v=19$m=16,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
        "$6$rounds=5000$salt$hash",
    ] {
        assert_eq!(PasswordHash::parse(text).err(), Some(PasswordHashError::Algorithm), "{text}");
    }
}

#[test]
fn costs_out_of_bounds_are_refused() {
    let with = |costs: &str| {
        let text = REFERENCE.replace("m=65536,t=2,p=1", costs);
        PasswordHash::parse(&text).err()
    };
    for costs in [
        "m=262145,t=1,p=1",
        "m=262144,t=5,p=1",
        "m=64,t=17,p=1",
        "m=64,t=1,p=5",
        "m=7,t=1,p=1",
        "m=8,t=1,p=2",
        "m=8,t=0,p=1",
        "m=8,t=1,p=0",
        "m=4294967295,t=4294967295,p=16777215",
    ] {
        assert!(matches!(with(costs), Some(PasswordHashError::Cost { .. })), "{costs}");
    }
    for costs in ["m=262144,t=4,p=4", "m=65536,t=16,p=1", "m=8,t=1,p=1"] {
        assert_eq!(with(costs), None, "{costs}");
    }
}

#[test]
fn broken_strings_are_refused() {
    for text in [
        "",
        "x",
        "$",
        "$argon2id",
        "$argon2id$v=19$m=8,t=1,p=1",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
        "$argon2id$v=19$m=8,t=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=8,t=1,p=1,keyid=YQ$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=8,m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=x,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=16$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=8,t=1,p=1$c2E$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFQ",
    ] {
        assert!(PasswordHash::parse(text).is_err(), "{text}");
    }
}

#[test]
fn an_identity_tells_hashes_apart() {
    let identity = |text: &str| {
        let mut bytes = Vec::new();
        PasswordHash::parse(text).unwrap().write_identity(|piece| bytes.extend_from_slice(piece));
        bytes
    };
    let one = hash_password(b"x", &[1; 16], Cost::Generated);
    assert_eq!(identity(&one), identity(&one));
    assert_ne!(identity(&one), identity(&hash_password(b"x", &[2; 16], Cost::Generated)));
    assert_ne!(identity(&one), identity(&one.replace("m=8", "m=9")));
}
