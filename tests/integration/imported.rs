//! Passwords whose hash another broker made: they log in, and get a better hash without a kick-out.

use fleetgate::domain::foreign_hash::ForeignHash;

use crate::support::app::{TestApp, config, eventually, start_with};
use crate::support::fake_emqx::FakeEmqx;
use crate::support::fleet::Fleet;
use crate::support::postgres::{SERVING_ROLE, connect, fresh_database};

/// Of the password `correct horse`, by Debian's mosquitto_passwd, `htpasswd -B` and Python's hashlib.
const HASHES: [(&str, &str); 7] = [
    (
        "mosquitto-7",
        "$pbkdf2-sha512$i=101,l=64$PB/OPhCOUdUaran6$0YGE0p3VOA60d6smQkEycKdrI+kUTKR0mNoFLmXoZW2q2iRlwQCG5m7Lvv2EjdUmZ4RU5F/aemmKn/yP09N/jg",
    ),
    (
        "mosquitto-6",
        "$sha512-salted$pos=suffix$OXWoXFfTArnt5x8i$EFrLCW6sCADUigKHnhfinOF/l17nX6CoWnLstIpW1M+wEdGUD/ZYSOAEJJE/qAPk0byiidncKAO6S44PYuqivg",
    ),
    ("htpasswd", "$2y$05$yPX5YHdhOv1RIoHuxhNmfee9KSgnC5gEUDx/mi0JAyzTMG/8eN7.G"),
    (
        "emqx-sha256",
        "$sha256-salted$pos=prefix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$+pDcXwfOj0Yffwat2q7p/MRtnmWrlQi0nz5A09i6dGM",
    ),
    (
        "emqx-pbkdf2",
        "$pbkdf2-sha256$i=7,l=32$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$M2u1tU59V7C2poswzUyut2bHFMgyzuawgYLBvTBRn3M",
    ),
    ("emqx-unsalted", "$sha256-salted$pos=prefix$$QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE"),
    (
        "sha1",
        "$sha1-salted$pos=suffix$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY$iv3BCl63J2KrrB8GIKXOxvAidBc",
    ),
];
const PASSWORD: &str = "correct horse";
/// Cost 12, of a password that nobody here knows.
const SLOW: &str = "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW";

async fn import(fleet: &Fleet, name: &str, hash: &str) {
    fleet.device(name).await;
    let statement = "INSERT INTO device_credentials (device_id, kind, hash)
         SELECT id, 'imported', $2 FROM devices WHERE name = $1";
    fleet.sql(statement, &[&name, &hash]).await;
}

async fn kind(fleet: &Fleet, name: &str) -> String {
    let query = format!(
        "SELECT credential.kind || ' ' || left(hash, 31) FROM device_credentials AS credential
         JOIN devices ON devices.id = device_id WHERE name = '{name}'"
    );
    fleet.value(&query).await
}

async fn rehashed(app: &TestApp) -> f64 {
    app.metric("fleetgate_hash_rehashed_total").await
}

#[tokio::test]
async fn imported_hashes_log_in_and_are_replaced_without_a_kick_out() {
    let emqx = FakeEmqx::start().await;
    let api = emqx.settings();
    let (app, fleet, _database) = start_with(|config| {
        config.emqx.api = Some(api);
        // A wrong password makes no right one wait here.
        config.logins.limits = false;
    })
    .await;
    for (name, hash) in HASHES {
        import(&fleet, name, hash).await;
    }
    let versions = "SELECT sum(number)::bigint FROM device_versions";
    let before = fleet.value::<i64>(versions).await;
    for (name, _) in HASHES {
        assert_eq!(app.logs_in(name, "correct horsf").await, "deny", "{name}");
        assert!(kind(&fleet, name).await.starts_with("imported "), "{name}");
        assert_eq!(app.logs_in(name, PASSWORD).await, "allow", "{name}");
    }
    eventually("all are replaced", || async { rehashed(&app).await == 7.0 }).await;
    for (name, _) in HASHES {
        assert_eq!(kind(&fleet, name).await, "password $argon2id$v=19$m=19456,t=2,p=1$", "{name}");
        assert_eq!(app.logs_in(name, PASSWORD).await, "allow", "{name}, by the new hash");
        assert_eq!(app.logs_in(name, "correct horsf").await, "deny", "{name}");
    }
    let who = "SELECT count(*) FROM audit WHERE subject = 'credential' AND action = 'changed' AND actor = 'system'";
    assert_eq!(fleet.value::<i64>(who).await, 7);
    assert_eq!(fleet.value::<i64>("SELECT count(*) FROM work_queue").await, 0);
    assert_eq!(
        fleet.value::<i64>(versions).await,
        before,
        "whoever edits a device is not in the way of its login"
    );
    // A session that does have to end is kicked out, and no other was before it.
    fleet.enabled("sha1", false).await;
    emqx.deleted("sha1").await;
    assert_eq!(emqx.deletes().len(), 1, "{:?}", emqx.deletes());
}

#[tokio::test]
async fn nobody_else_changes_a_hash_without_a_kick_out() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let (name, hash) = HASHES[0];
    import(&fleet, name, hash).await;
    let argon2id = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let queued = "SELECT count(*) FROM work_queue";
    for (setting, change, expected) in [
        ("", "kind = 'password'", 1),
        // As the right one does it, of another credential.
        ("SELECT set_config('fleetgate.rehash', '0', true);", "kind = 'password'", 1),
        (
            "SELECT set_config('fleetgate.rehash', id::text, true) FROM device_credentials;",
            "kind = 'secret'",
            1,
        ),
        (
            "SELECT set_config('fleetgate.rehash', id::text, true) FROM device_credentials;",
            "kind = 'password', revoked_at = now()",
            1,
        ),
        (
            "SELECT set_config('fleetgate.rehash', id::text, true) FROM device_credentials;",
            "kind = 'password', expires_at = now() + interval '1 h'",
            1,
        ),
        (
            "SELECT set_config('fleetgate.rehash', id::text, true) FROM device_credentials;",
            "kind = 'password'",
            0,
        ),
    ] {
        fleet
            .batch(&format!(
                "BEGIN; {setting} UPDATE device_credentials SET {change}, hash = '{argon2id}'; COMMIT"
            ))
            .await;
        assert_eq!(fleet.value::<i64>(queued).await, expected, "{setting} {change}");
        fleet
            .batch(&format!(
                "UPDATE device_credentials SET kind = 'imported', hash = '{hash}', revoked_at = NULL, expires_at = NULL;
                 DELETE FROM work_queue"
            ))
            .await;
    }
    // A role that may write rows, and is none of those that serve.
    let role = database.url.rsplit("dbname=").next().unwrap().replace('\'', "") + "_meddler";
    let rights = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    );
    fleet.batch(&rights).await;
    let user = |role: &str| format!("user={role} ");
    let meddler = connect(&database.url.replace(&user(SERVING_ROLE), &user(&role))).await;
    let forged = "CREATE TEMPORARY TABLE serving_roles AS SELECT session_user::text AS name; GRANT SELECT ON serving_roles TO PUBLIC";
    meddler.batch_execute(forged).await.unwrap();
    let statement = format!(
        "BEGIN; SELECT set_config('fleetgate.rehash', id::text, true) FROM device_credentials;
         UPDATE device_credentials SET kind = 'password', hash = '{argon2id}'; COMMIT"
    );
    meddler.batch_execute(&statement).await.unwrap();
    assert_eq!(fleet.value::<i64>(queued).await, 1, "who is not believed");
}

#[tokio::test]
async fn what_could_not_be_replaced_is_replaced_after_a_later_login() {
    let (app, fleet, database) = start_with(|_| {}).await;
    let (name, hash) = HASHES[2];
    import(&fleet, name, hash).await;
    let other = connect(&database.owner_url()).await;
    other.batch_execute("BEGIN; SELECT FROM device_credentials FOR UPDATE").await.unwrap();
    assert_eq!(app.logs_in(name, PASSWORD).await, "allow");
    let waits = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'UPDATE device_credentials%'";
    eventually("it waits", || async { fleet.value::<i64>(waits).await == 1 }).await;
    eventually("it was given up", || async { fleet.value::<i64>(waits).await == 0 }).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(kind(&fleet, name).await.starts_with("imported "));
    assert_eq!(app.logs_in(name, PASSWORD).await, "allow", "from the digest");
    eventually("it is replaced", || async { rehashed(&app).await == 1.0 }).await;
}

#[tokio::test]
async fn where_it_is_turned_off_the_old_hash_stays() {
    let (app, fleet, _database) = start_with(|config| config.imports.upgrade = false).await;
    let (name, hash) = HASHES[2];
    import(&fleet, name, hash).await;
    assert_eq!(app.logs_in(name, PASSWORD).await, "allow");
    // Another device's hash is replaced by nobody either, long after the first would have been.
    assert_eq!(app.logs_in(name, PASSWORD).await, "allow", "from the digest");
    assert_eq!(kind(&fleet, name).await, format!("imported {}", &hash[..31]));
    assert_eq!(rehashed(&app).await, 0.0);
}

#[tokio::test]
async fn unknown_names_look_as_if_they_had_been_imported_where_all_devices_were() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    import(&fleet, "slow", SLOW).await;
    let mut config = config(&database.url);
    config.logins.limits = false;
    let app = TestApp::start(config).await;
    app.ready().await;
    let hashes = "fleetgate_hash_duration_seconds_count";
    // The fleet is looked at right after the start: until then names look otherwise, some like a generated secret.
    eventually("an unknown name takes a hash for each of eight", || async {
        let before = app.metric(hashes).await;
        for number in 0..8 {
            app.logs_in(&format!("unknown-{number}"), "guess").await;
        }
        app.metric(hashes).await == before + 8.0
    })
    .await;
}

#[tokio::test]
async fn slow_imported_hashes_make_no_chosen_password_wait() {
    let (app, fleet, _database) = start_with(|config| config.hashing.queue = 2).await;
    for number in 0..6 {
        import(&fleet, &format!("slow-{number}"), SLOW).await;
    }
    fleet.device("chosen").await.password("chosen", PASSWORD).await;
    let names: Vec<String> = (0..6).map(|number| format!("slow-{number}")).collect();
    let storm = futures_util::future::join_all(names.iter().map(|name| app.login(name, "guess")));
    let chosen = async {
        eventually("the places for imported hashes are taken", || async {
            app.metric("fleetgate_hash_shed_total").await > 0.0
        })
        .await;
        app.login("chosen", PASSWORD).await
    };
    let (answers, chosen) = tokio::join!(storm, chosen);
    assert!(answers.iter().any(|answer| answer.status == 503), "more than there are places");
    assert_eq!((chosen.status, chosen.result().as_str()), (200, "allow"));
}

#[tokio::test]
async fn the_table_takes_what_can_be_read_and_nothing_that_costs_more() {
    let database = fresh_database().await;
    let fleet = Fleet::connect(&database.url).await;
    let is_taken = async |text: &str| {
        let query = format!("SELECT coalesce(fleetgate_is_imported_hash('{text}'), false)");
        fleet.value::<bool>(&query).await
    };
    for (_, hash) in HASHES {
        assert!(is_taken(hash).await && ForeignHash::parse(hash).is_ok(), "{hash}");
    }
    let (bcrypt, pbkdf2) = (HASHES[2].1, HASHES[0].1);
    for refused in [
        String::new(),
        "plain text".to_owned(),
        bcrypt.replace("$05$", "$13$"),
        bcrypt.replace("$05$", "$31$"),
        bcrypt.replace("$2y$", "$2x$"),
        format!("{bcrypt}$"),
        pbkdf2.replace("i=101", "i=600001"),
        pbkdf2.replace("i=101", "i=4294967295"),
        pbkdf2.replace("i=101", "i=0"),
        pbkdf2.replace("sha512", "md5"),
        HASHES[1].1.replace("sha512", "md5"),
        "$argon2id$v=19$m=65537,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
            .to_owned(),
    ] {
        assert!(!is_taken(&refused).await && ForeignHash::parse(&refused).is_err(), "{refused}");
    }
}
