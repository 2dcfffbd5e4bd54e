//! One role owns the tables, another serves: what each may do, and what is said where it may not.

use std::collections::BTreeSet;

use fleetgate::app::AppError;
use fleetgate::registry::migrate::{grant_again, grant_to, migrate};
use fleetgate::registry::roles::missing_privileges;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::app::{TestApp, config};
use crate::support::commands::{fleetgate, run};
use crate::support::fleet::Fleet;
use crate::support::postgres::{
    SERVING_ROLE, as_owner, as_serving, connect, empty_database, fresh_database, new_database,
    new_server,
};

/// The privileges of the role that is connected on every table, as `devices: INSERT`.
async fn privileges(client: &Client) -> BTreeSet<String> {
    let query = "
        SELECT relname || ': ' || privilege FROM pg_class
        CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS privilege
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
          AND has_table_privilege(pg_class.oid, privilege)";
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn tables(client: &Client) -> Vec<String> {
    let query = "
        SELECT relname::text FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')";
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_serving_role_may_read_and_write_rows_and_nothing_more() {
    let database = fresh_database().await;
    let serving = connect(&database.url).await;
    let mut expected = BTreeSet::from(["fleetgate_schema_history: SELECT".to_owned()]);
    for table in tables(&serving).await {
        let privileges: &[&str] = match table.as_str() {
            "fleetgate_schema_history" | "serving_roles" => &[],
            "device_state" | "presence_sweeps" | "api_tokens" | "device_versions" => {
                &["SELECT", "INSERT", "UPDATE"]
            }
            "api_requests" => &["SELECT", "INSERT"],
            "commands" | "command_pauses" => &["SELECT", "INSERT", "DELETE"],
            "audit" => &["SELECT"],
            _ => &["SELECT", "INSERT", "UPDATE", "DELETE"],
        };
        expected.extend(privileges.iter().map(|privilege| format!("{table}: {privilege}")));
    }
    assert_eq!(privileges(&serving).await, expected);
    for forbidden in [
        "TRUNCATE topic_grants",
        "CREATE TABLE mine ()",
        "ALTER TABLE devices DROP CONSTRAINT devices_kind_form",
        "ALTER TABLE devices DISABLE TRIGGER devices_kick_out_changed",
        "DROP TABLE client_sessions",
        "CREATE OR REPLACE FUNCTION fleetgate_is_name(value text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN true",
        "INSERT INTO serving_roles (name) VALUES ('postgres')",
        "UPDATE fleetgate_schema_history SET version = 0",
        "INSERT INTO audit (subject, action) VALUES ('device', 'removed')",
        "UPDATE audit SET actor = NULL",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "SELECT nextval('audit_id_seq')",
        "ALTER TABLE devices DISABLE TRIGGER devices_audit_removed",
        "CREATE TEMP TABLE mine (LIKE devices INCLUDING ALL);
             CREATE TRIGGER forged AFTER INSERT ON mine REFERENCING NEW TABLE AS added
             FOR EACH STATEMENT EXECUTE FUNCTION fleetgate_audit_devices('device');
             INSERT INTO mine (name, kind) VALUES ('x', 'x')",
        "CREATE TEMP TABLE mine (LIKE devices INCLUDING ALL); INSERT INTO mine (name, kind) VALUES ('x', 'x');
             CREATE TRIGGER forged AFTER DELETE ON mine
             FOR EACH ROW EXECUTE FUNCTION fleetgate_audit('device', 't', '{}');
             DELETE FROM mine",
    ] {
        let error = serving.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{forbidden}: {error}");
    }
    assert!(missing_privileges(&serving).await.unwrap().for_serving.is_empty());
}

#[tokio::test]
async fn migrate_makes_the_serving_role_and_gives_it_its_password() {
    let database = empty_database().await;
    // Roles belong to the whole server, and tests share it.
    let role = database.url.rsplit("dbname=").next().unwrap().replace('\'', "") + "_serving";
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "a password in a file\n").unwrap();
    let file = password.path().to_str().unwrap();
    let migrate = || {
        let arguments = ["migrate", "--json", "--grant-to", &role, "--role-password-file", file];
        let mut command = fleetgate(&arguments);
        command.env("FLEETGATE_DATABASE_URL", &database.url);
        run(command)
    };
    let (code, stdout, stderr) = migrate();
    assert_eq!(code, 0, "{stderr}");
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(result["granted"], serde_json::json!([role]));
    let url = database.url.replace("user=fleetgate ", &format!("user={role} "));
    let serving = connect(&url).await;
    assert!(missing_privileges(&serving).await.unwrap().for_provisioning.is_empty());
    let owner = Fleet::connect(&database.url).await;
    let stored = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
    let first: String = owner.value(&stored).await;
    assert!(first.starts_with("SCRAM-SHA-256$4096:"), "{first}");
    let flags: String = owner
        .value(&format!(
            "SELECT concat_ws(' ', rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolcanlogin)
             FROM pg_roles WHERE rolname = '{role}'"
        ))
        .await;
    assert_eq!(flags, "f f f f t");
    // Again, over a role that has more than it needs: exactly what is needed stays.
    owner.batch(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
    assert_eq!(migrate().0, 0);
    assert!(!privileges(&serving).await.contains("devices: TRUNCATE"));
    assert!(privileges(&serving).await.contains("devices: INSERT"));
}

#[tokio::test]
async fn every_migration_grants_again() {
    let empty = empty_database().await;
    let mut client = connect(&empty.url).await;
    migrate(&mut client).await.unwrap();
    grant_to(&mut client, SERVING_ROLE, None).await.unwrap();
    let before = privileges(&connect(&as_serving(&empty.url)).await).await;
    // What a dump without privileges, or a release with new tables, leaves behind.
    client
        .batch_execute(&format!("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {SERVING_ROLE}"))
        .await
        .unwrap();
    assert_eq!(run(with_url(fleetgate(&["migrate"]), &empty.url)).0, 0);
    let after = privileges(&connect(&as_serving(&empty.url)).await).await;
    assert_eq!(before, after);
}

/// A dump that is restored without privileges gives everybody the functions that migrations took from them.
#[tokio::test]
async fn a_restored_database_keeps_the_audit_log_from_everybody() {
    let database = fresh_database().await;
    let owner = Fleet::connect(&database.url).await;
    let closed = "
        SELECT coalesce(string_agg(proname, ' ' ORDER BY proname), '') FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND NOT has_function_privilege('public', oid, 'EXECUTE')";
    let before: String = owner.value(closed).await;
    assert!(before.contains("fleetgate_prune_audit"), "{before}");
    owner.batch("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC").await;
    assert_eq!(owner.value::<String>(closed).await, "");
    assert_eq!(run(with_url(fleetgate(&["migrate"]), &as_owner(&database.url))).0, 0);
    assert_eq!(owner.value::<String>(closed).await, before);
    let serving = connect(&database.url).await;
    serving.query_one("SELECT fleetgate_prune_audit('7 days', 1)", &[]).await.unwrap();
}

fn with_url(mut command: std::process::Command, url: &str) -> std::process::Command {
    command.env("FLEETGATE_DATABASE_URL", url);
    command
}

#[tokio::test]
async fn a_role_that_may_not_migrate_says_so_and_ends() {
    let server = new_server().await;
    let database = new_database(&server).await;
    let owner = Fleet::connect(&database.url).await;
    owner.batch("DELETE FROM fleetgate_schema_history WHERE version > 1").await;
    let app = TestApp::start(config(&database.url)).await;
    let error = ended(app).await;
    for part in ["schema version 1", "\"serving\"", "fleetgate migrate --grant-to serving", "owner"]
    {
        assert!(error.contains(part), "{error}");
    }
    // The same of an empty database, and from the command.
    owner.batch("CREATE DATABASE nothing").await;
    let url = as_serving(&server.connection_string("nothing"));
    let (code, _, stderr) = run(with_url(fleetgate(&["migrate"]), &url));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("no Fleetgate schema") && stderr.contains("owner"), "{stderr}");
    assert!(ended(TestApp::start(config(&url)).await).await.contains("no Fleetgate schema"));
}

#[tokio::test]
async fn a_role_that_lacks_a_privilege_says_which_and_ends() {
    let database = fresh_database().await;
    let owner = Fleet::connect(&database.url).await;
    owner
        .batch(&format!(
            "REVOKE UPDATE ON devices FROM {SERVING_ROLE};
             REVOKE EXECUTE ON FUNCTION fleetgate_is_name(text) FROM public, {SERVING_ROLE}"
        ))
        .await;
    let error = ended(TestApp::start(config(&database.url)).await).await;
    assert!(error.contains("UPDATE on devices"), "{error}");
    assert!(error.contains("EXECUTE on function fleetgate_is_name(text)"), "{error}");
    owner.batch(&format!("REVOKE ALL ON fleetgate_schema_history FROM {SERVING_ROLE}")).await;
    let error = ended(TestApp::start(config(&database.url)).await).await;
    assert!(error.contains("SELECT on fleetgate_schema_history"), "{error}");
    // What is missing comes back with one command.
    let migrate = fleetgate(&["migrate", "--grant-to", SERVING_ROLE]);
    assert_eq!(run(with_url(migrate, &database.owner_url())).0, 0);
    TestApp::start(config(&database.url)).await.ready().await;
}

#[tokio::test]
async fn only_the_owner_grants_and_not_to_itself() {
    let database = fresh_database().await;
    let grant_to =
        |url: &str, role: &str| run(with_url(fleetgate(&["migrate", "--grant-to", role]), url));
    let (code, _, stderr) = grant_to(&database.url, SERVING_ROLE);
    assert!(code == 1 && stderr.contains("owner's database.url"), "{stderr}");
    assert!(stderr.contains("does not own the tables") && !stderr.contains("version"), "{stderr}");
    let (code, _, stderr) = grant_to(&database.owner_url(), "fleetgate");
    assert!(code == 1 && stderr.contains("owns the tables"), "{stderr}");
    let (code, _, stderr) = grant_to(&database.owner_url(), "nobody; DROP TABLE devices");
    assert!(code == 1 && stderr.contains("does not exist"), "{stderr}");
}

#[tokio::test]
async fn migrate_does_nothing_for_a_role_that_it_cannot_grant_to() {
    let database = empty_database().await;
    let (code, _, stderr) =
        run(with_url(fleetgate(&["migrate", "--grant-to", "nobody"]), &database.url));
    assert!(code == 1 && stderr.contains("role \"nobody\" does not exist"), "{stderr}");
    let owner = connect(&database.url).await;
    let made = "SELECT to_regclass('fleetgate_schema_history') IS NOT NULL";
    assert!(!owner.query_one(made, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn migrate_does_nothing_where_it_may_not_make_the_role() {
    let database = empty_database().await;
    // Roles belong to the whole server, and tests share it.
    let name = database.url.rsplit("dbname=").next().unwrap().replace('\'', "");
    let (owner, serving) = (format!("{name}_plain_owner"), format!("{name}_plain_serving"));
    let superuser = connect(&database.url).await;
    superuser
        .batch_execute(&format!("CREATE ROLE {owner} LOGIN; GRANT ALL ON SCHEMA public TO {owner}"))
        .await
        .unwrap();
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "a password in a file\n").unwrap();
    let file = password.path().to_str().unwrap();
    let migrate = ["migrate", "--grant-to", &serving, "--role-password-file", file];
    let url = database.url.replace("user=fleetgate ", &format!("user={owner} "));
    let (code, _, stderr) = run(with_url(fleetgate(&migrate), &url));
    assert!(code == 1 && stderr.contains("CREATEROLE"), "{stderr}");
    let made = "SELECT to_regclass('fleetgate_schema_history') IS NOT NULL";
    assert!(!superuser.query_one(made, &[]).await.unwrap().get::<_, bool>(0));
}

/// The privileges of another role on every table.
async fn privileges_of(owner: &Client, role: &str) -> BTreeSet<String> {
    owner.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
    let held = privileges(owner).await;
    owner.batch_execute("RESET ROLE").await.unwrap();
    held
}

#[tokio::test]
async fn nobody_takes_the_owners_rights_away() {
    let database = empty_database().await;
    // Roles belong to the whole server, and tests share it.
    let owner = database.url.rsplit("dbname=").next().unwrap().replace('\'', "") + "_owner";
    let (member, serving) = (format!("{owner}_member"), format!("{owner}_serving"));
    let mut superuser = connect(&database.url).await;
    let roles = format!(
        "CREATE ROLE {owner}; CREATE ROLE {member} NOINHERIT IN ROLE {owner}; CREATE ROLE {serving};
         GRANT ALL ON SCHEMA public TO {owner}; SET ROLE {owner}"
    );
    superuser.batch_execute(&roles).await.unwrap();
    migrate(&mut superuser).await.unwrap();
    superuser.batch_execute("RESET ROLE").await.unwrap();
    let before = privileges_of(&superuser, &owner).await;
    for role in [&owner, &member] {
        let error = grant_to(&mut superuser, role, None).await.expect_err(role).to_string();
        assert!(error.contains("owns the tables, or is a member"), "{error}");
        assert_eq!(privileges_of(&superuser, &owner).await, before);
    }
    grant_to(&mut superuser, &serving, None).await.unwrap();
    // It was a serving role, and owns the tables by now.
    let reassign = format!("REASSIGN OWNED BY {owner} TO {serving}");
    superuser.batch_execute(&reassign).await.unwrap();
    assert_eq!(grant_again(&mut superuser).await.unwrap(), Vec::<String>::new());
    assert_eq!(privileges_of(&superuser, &serving).await, before);
}

/// Why a service ended by itself.
async fn ended(app: TestApp) -> String {
    let error: AppError = app.ended().await.expect_err("the service ended without a reason");
    error.to_string()
}
