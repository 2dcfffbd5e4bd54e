use proptest::prelude::*;

use super::*;

/// All of the password `correct horse`: made by Debian's mosquitto_passwd (with base64 as it is here), by `htpasswd -B`, and
/// by Python's hashlib.
const OF_CORRECT_HORSE: [&str; 14] = [
    "$pbkdf2-sha512$i=101,l=64$PB/OPhCOUdUaran6$0YGE0p3VOA60d6smQkEycKdrI+kUTKR0mNoFLmXoZW2q2iRlwQCG5m7Lvv2EjdUmZ4RU5F/aemmKn/yP09N/jg",
    "$pbkdf2-sha512$i=500$171LF6p931eeO45k$T4IIaMnwqedhocslEl2EbmeM+ek7oYsDYlV8kBnMS3NcPdSfXLWRXyDxvbmrGoSWtQf1PG8Sn9A4og844NM1EQ",
    "$sha512-salted$pos=suffix$OXWoXFfTArnt5x8i$EFrLCW6sCADUigKHnhfinOF/l17nX6CoWnLstIpW1M+wEdGUD/ZYSOAEJJE/qAPk0byiidncKAO6S44PYuqivg",
    "$2y$05$yPX5YHdhOv1RIoHuxhNmfee9KSgnC5gEUDx/mi0JAyzTMG/8eN7.G",
    "$pbkdf2-sha1$i=7,l=32$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$W1Z+XexigaGdIW7Q6i7VbTgpazvA5ofrZFGx/QrkYNg",
    "$sha1-salted$pos=prefix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$PZ0N1YcAC3UaLNLgSUTLhFfNXII",
    "$sha1-salted$pos=suffix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$iv3BCl63J2KrrB8GIKXOxvAidBc",
    "$pbkdf2-sha256$i=7,l=32$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$M2u1tU59V7C2poswzUyut2bHFMgyzuawgYLBvTBRn3M",
    "$sha256-salted$pos=prefix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$+pDcXwfOj0Yffwat2q7p/MRtnmWrlQi0nz5A09i6dGM",
    "$sha256-salted$pos=suffix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$QG8QXkw/jQ1PmZBSTazqB//pHV4zjNBN0ouNRKdgwzA",
    "$pbkdf2-sha512$i=7,l=32$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$FMtTmDp9SLRYP7zl7tCOyNx3R8t79r9rUlxlO1aXMV8",
    "$sha512-salted$pos=prefix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$XZ2prgt59mc1YWjNBZPO7XFHq/9FSr6f1SY9t2Mj8u6N4J9nL6UpEHGAJhIuCyZF0907JNoNYN7UGn/TUpmPEA",
    "$sha512-salted$pos=suffix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$oBY5VRGNF4MxAFlCOCncd2Vrv0a7S+aV3lNx2DSodrJSeCPRaUZZsfoHm/YPpuH3hm1A2kU4ic9dh0GMEk/eog",
    "$sha256-salted$pos=prefix$$QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE",
];

fn verifies(hash: &ForeignHash, password: &[u8]) -> bool {
    hash.verify_with(password, &mut HashMemory::default())
}

fn read(text: &str) -> ForeignHash {
    ForeignHash::parse(text).unwrap_or_else(|error| panic!("{text} {error}"))
}

#[test]
fn what_other_brokers_tools_made_verifies() {
    for text in OF_CORRECT_HORSE {
        let hash = read(text);
        assert!(verifies(&hash, b"correct horse"), "{text}");
        for wrong in [&b"correct horsf"[..], b"", b"correct horse\0", b"correct horse "] {
            assert!(!verifies(&hash, wrong), "{text} {wrong:?}");
        }
        let other = hash.unmatchable([7; 64]);
        assert!(!verifies(&other, b"correct horse"), "{text}");
        assert_eq!(other.description(), hash.description());
    }
    let argon2id = read(
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
    );
    assert!(verifies(&argon2id, b"password") && !argon2id.is_weak());
}

#[test]
fn bcrypt_reads_72_bytes_and_what_is_longer_never_matches() {
    // By `htpasswd -nbB -C 4`, of 36 times é.
    let hash = read("$2y$04$Qh1xIqMDxP5TKIV/FFHLI.KX/74TADzxaeekx6GOiA08dIZQRlVjy");
    let password = "é".repeat(36);
    assert!(verifies(&hash, password.as_bytes()));
    assert!(!verifies(&hash, format!("{password}x").as_bytes()), "what a C library would cut off");
    // Of an empty password: one of bcrypt's published test vectors.
    assert!(verifies(&read("$2a$06$DCq7YPn5Rq63x1Lad4cll.TV4S6ytwfsfvkgY8jIucDrjc8deX1s."), b""));
}

#[test]
fn weak_hashes_are_called_so() {
    for (text, is_weak) in
        [(OF_CORRECT_HORSE[0], true), (OF_CORRECT_HORSE[2], true), (OF_CORRECT_HORSE[3], false)]
    {
        assert_eq!(read(text).is_weak(), is_weak, "{text}");
    }
    let many = OF_CORRECT_HORSE[1].replace("i=500", "i=10000");
    assert!(!read(&many).is_weak());
}

#[test]
fn what_costs_too_much_or_is_broken_is_refused() {
    let long = "A".repeat(172);
    let cases = [
        (String::new(), ForeignHashError::Unknown),
        ("plain".into(), ForeignHashError::Unknown),
        ("$1$salt$hash".into(), ForeignHashError::Unknown),
        ("$md5-salted$pos=prefix$YQ$YWFhYWFhYWFhYWFhYWFhYQ".into(), ForeignHashError::Unknown),
        (OF_CORRECT_HORSE[3].replace("$05$", "$13$"), ForeignHashError::BcryptCost(13)),
        (OF_CORRECT_HORSE[3].replace("$05$", "$03$"), ForeignHashError::BcryptCost(3)),
        (OF_CORRECT_HORSE[3].replace("$05$", "$5$"), ForeignHashError::Incomplete("bcrypt")),
        (format!("{}x", OF_CORRECT_HORSE[3]), ForeignHashError::Incomplete("bcrypt")),
        (format!("{}$x", OF_CORRECT_HORSE[3]), ForeignHashError::Incomplete("bcrypt")),
        (OF_CORRECT_HORSE[0].replace("i=101", "i=600001"), ForeignHashError::Rounds(600_001)),
        (OF_CORRECT_HORSE[0].replace("i=101", "i=0"), ForeignHashError::Rounds(0)),
        (OF_CORRECT_HORSE[0].replace("i=101", "i=+5"), ForeignHashError::Incomplete("PBKDF2")),
        (OF_CORRECT_HORSE[0].replace("l=64", "l=63"), ForeignHashError::Incomplete("PBKDF2")),
        (OF_CORRECT_HORSE[0].replace("l=64", "x=64"), ForeignHashError::Incomplete("PBKDF2")),
        (OF_CORRECT_HORSE[2].replace("pos=suffix", "pos=middle"), ForeignHashError::Incomplete("salted")),
        (OF_CORRECT_HORSE[2].replace("sha512", "sha256"), ForeignHashError::Incomplete("salted")),
        ("$pbkdf2-sha1$i=1$YQ$YWFhYQ".into(), ForeignHashError::Length { salt: 1, output: 4 }),
        (
            format!("$pbkdf2-sha1$i=1${long}$YWFhYWFhYWFhYWFhYWFhYQ"),
            ForeignHashError::Length { salt: 129, output: 16 },
        ),
        (
            "$argon2id$v=19$m=65537,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc".into(),
            ForeignHashError::Memory(65_537),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(ForeignHash::parse(&text).err(), Some(expected), "{text}");
    }
}

#[test]
fn an_identity_tells_hashes_apart() {
    let identity = |text: &str| {
        let mut bytes = Vec::new();
        read(text).write_identity(|piece| bytes.extend_from_slice(piece));
        bytes
    };
    let mut all: Vec<_> = OF_CORRECT_HORSE.iter().map(|text| identity(text)).collect();
    all.push(identity(&OF_CORRECT_HORSE[0].replace("i=101", "i=102")));
    all.push(identity(&OF_CORRECT_HORSE[3].replace("$05$", "$06$")));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    assert_eq!(identity(OF_CORRECT_HORSE[0]), identity(&OF_CORRECT_HORSE[0].replace(",l=64", "")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_is_refused_or_within_bounds(
        head in prop::sample::select(vec!["", "$2b$", "$2b$10$", "$pbkdf2-sha256$", "$pbkdf2-sha1$i=2$", "$sha1-salted$pos=prefix$", "$argon2id$v=19$m=8,t=1,p=1$"]),
        tail in "[A-Za-z0-9+/.$=,é]{0,80}",
    ) {
        if let Ok(hash) = ForeignHash::parse(&format!("{head}{tail}")) {
            prop_assert!(!verifies(&hash.unmatchable([1; 64]), b"password"));
        }
    }
}
