//! The file as a whole.

use std::fs;

use crate::operator::Operator;

#[test]
fn all_problems_are_told_at_once_in_reading_order() {
    let told = Operator::writes(
        "[log]\nformat = 'xml'\n\n[http]\nlisten = '8080'\nwrokers = 3\nkeep_alive = 5\n",
    )
    .sets("FLEETGATE_CACHE_DEVICES", "none")
    .sets("FLEETGATE_CASHE_DEVICES", "1")
    .is_told();
    let places: Vec<&str> = told.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "fleetgate.toml:2",
            "fleetgate.toml:5",
            "fleetgate.toml:6",
            "fleetgate.toml:7",
            "FLEETGATE_CACHE_DEVICES",
            "FLEETGATE_CASHE_DEVICES",
        ],
        "{told:#?}"
    );
}

#[test]
fn a_file_that_is_no_configuration_is_told_with_its_line() {
    let told = Operator::writes("[http]\nlisten = '1\n[log]\nformat = \n").is_told();
    assert!(told[0].starts_with("fleetgate.toml:2: not TOML: "), "{told:?}");
    assert!(told[1].starts_with("fleetgate.toml:4: not TOML: "), "{told:?}");
    let told = Operator::writes("http.workers = 1\nhttp.workers = 2\n").is_told();
    assert!(told[0].starts_with("fleetgate.toml:2: not TOML: duplicate key"), "{told:?}");
    let operator = Operator::writes("");
    operator.saves("fleetgate.toml", b"# \n# \xff\n", 0o600);
    assert_eq!(operator.is_told()[0], "fleetgate.toml:2: not UTF-8; save the file as UTF-8");
    operator.saves("fleetgate.toml", vec![b'#'; (1 << 20) + 1], 0o600);
    assert!(operator.is_told()[0].contains("longer than 1048576 bytes"));
    fs::remove_file(operator.path("fleetgate.toml")).expect("removing");
    assert_eq!(
        operator.is_told()[0],
        "fleetgate.toml: cannot be read: No such file or directory (os error 2); name a \
         TOML file with --config or FLEETGATE_CONFIG"
    );
}
