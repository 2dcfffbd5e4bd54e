//! Whatever a file of another broker holds, `fleetgate import` reads or refuses it, never a panic. The first line says which
//! parser reads the rest.
#![no_main]

use fleetgate::fleet::imports::{
    Acl, Algorithm, Csv, Dynsec, EmqxCsv, EmqxJson, Foreign, PasswordFile, SaltEncoding,
};

fn foreign(acl: Acl) -> Foreign {
    Foreign { kind: "x".parse().expect("a kind"), acl, superusers: false }
}

fn read(parser: &str, file: &str) {
    let mut lines = file.lines();
    let header = lines.next().unwrap_or_default();
    let algorithm = "sha256,prefix".parse::<Algorithm>().ok();
    let passwords = |file: &str, acl| {
        let mut passwords = PasswordFile::new(foreign(acl), SaltEncoding::Utf8);
        file.lines().for_each(|line| drop(passwords.line(line)));
        drop(passwords.left_out(true));
    };
    match parser {
        "csv" => {
            if let Ok(csv) = Csv::new(header, None) {
                lines.for_each(|line| drop(csv.line(line).map(|entry| entry.summary())));
            }
        }
        "emqx-csv" => {
            if let Ok(mut csv) = EmqxCsv::new(header, algorithm, foreign(Acl::default())) {
                lines.for_each(|line| drop(csv.line(line)));
            }
        }
        "emqx-json" => {
            if let Ok(mut users) = EmqxJson::new(file, algorithm, foreign(Acl::default())) {
                while users.next_user().is_some() {}
            }
        }
        "dynsec" => {
            if let Ok(mut users) = Dynsec::new(file, foreign(Acl::default()), false) {
                while users.next_user().is_some() {}
            }
        }
        "acl" => drop(Acl::of_mosquitto(file).map(|acl| passwords("a:b\n", acl))),
        "emqx-rules" => drop(Acl::of_emqx(file).map(|acl| passwords("a:b\n", acl))),
        _ => passwords(file, Acl::default()),
    }
}

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    if let Ok(file) = std::str::from_utf8(file) {
        let (parser, file) = file.split_once('\n').unwrap_or_default();
        read(parser, file);
    }
});
