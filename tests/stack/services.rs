//! How the services run: in which order, with what, and with how little.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::compose::{document, mounts, service, services, texts};
use crate::secrets_of;

/// Those that end by themselves.
const ONE_SHOT: [&str; 3] = ["secrets", "migrate", "certificate"];

fn condition(of: &str, on: &str) -> Value {
    service(of)["depends_on"][on]["condition"].clone()
}

#[test]
fn each_starts_when_what_it_needs_is_healthy() {
    for needs_secrets in ["postgres", "migrate", "fleetgate", "emqx"] {
        assert_eq!(condition(needs_secrets, "secrets"), "service_completed_successfully");
    }
    assert_eq!(condition("migrate", "postgres"), "service_healthy");
    assert_eq!(condition("fleetgate", "postgres"), "service_healthy");
    assert_eq!(condition("fleetgate", "migrate"), "service_completed_successfully");
    assert_eq!(condition("emqx", "fleetgate"), "service_healthy");
    let services = services();
    for (name, service) in &services {
        for on in service["depends_on"].as_object().into_iter().flat_map(|on| on.keys()) {
            assert!(services.contains_key(on), "{name} waits for {on}, which isn't there");
        }
    }
}

#[test]
fn everything_is_limited_and_watched() {
    for (name, service) in services() {
        let one_shot = ONE_SHOT.contains(&name.as_str());
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        assert_eq!(service["read_only"] == json!(true), name != "emqx", "{name}");
        assert_eq!(service["restart"], if one_shot { "no" } else { "unless-stopped" }, "{name}");
        assert_eq!(service["healthcheck"]["test"].is_array(), !one_shot, "{name}");
        assert!(service["mem_limit"].is_string(), "{name}");
        assert!(service["logging"]["options"]["max-size"].is_string(), "{name}");
        let image = service["image"].as_str().unwrap();
        let tag = image.rsplit_once(':').map(|(_, tag)| tag);
        assert!(tag.is_some_and(|tag| tag != "latest"), "{name}: {image} is not pinned");
    }
}

#[test]
fn only_what_is_asked_for_runs_without_a_profile() {
    let services = services();
    let of = |profile: Value| {
        let those = services.iter().filter(move |(_, service)| service["profiles"] == profile);
        those.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of(Value::Null), ["emqx", "fleetgate", "migrate", "postgres", "secrets"]);
    assert_eq!(of(json!(["monitoring"])), ["grafana", "prometheus"]);
    assert_eq!(of(json!(["tools"])), ["certificate"]);
}

#[test]
fn the_lan_reaches_mqtt_and_nothing_else() {
    let mut published = BTreeMap::new();
    for (name, service) in services() {
        published.insert(name, texts(&service["ports"]));
    }
    published.retain(|_, ports| !ports.is_empty());
    let expected = json!({
        "emqx": ["0.0.0.0:1883:1883", "0.0.0.0:8883:8883", "127.0.0.1:18083:18083"],
        "fleetgate": ["127.0.0.1:8090:8090"],
        "grafana": ["127.0.0.1:3000:3000"],
        "prometheus": ["127.0.0.1:9090:9090"],
    });
    assert_eq!(json!(published), expected);
}

#[test]
fn what_is_mounted_is_there() {
    let volumes = document()["volumes"].clone();
    for (name, service) in services() {
        for (what, place, read_only) in mounts(&service) {
            assert!(place.starts_with('/'), "{name}: {place}");
            if !what.starts_with('.') {
                assert!(volumes.get(&what).is_some(), "{name}: {what} is no volume");
            } else if read_only {
                let path = Path::new("docker").join(what.trim_start_matches("./"));
                assert!(path.exists(), "{name} mounts {}, which isn't there", path.display());
            }
        }
    }
}

/// Where SELinux confines containers, they read nothing of the host that is not labelled for them.
#[test]
fn what_comes_from_the_host_is_labelled_for_containers() {
    let mut labelled = 0;
    for (name, service) in services() {
        for mount in texts(&service["volumes"]).iter().filter(|mount| mount.starts_with('.')) {
            let options = mount.rsplit_once(':').unwrap().1;
            assert!(options.split(',').any(|option| option == "z"), "{name}: {mount}");
            labelled += 1;
        }
    }
    assert_eq!(labelled, 5);
}

/// Images of PostgreSQL from 18 on refuse to start with a volume at this place.
#[test]
fn the_database_is_one_that_keeps_its_data_there() {
    let postgres = service("postgres");
    let major = postgres["image"].as_str().unwrap().strip_prefix("postgres:").unwrap();
    let major: u32 = major.split('-').next().unwrap().parse().unwrap();
    assert!((15..=17).contains(&major), "{major}");
    let volume = ("postgres-data".into(), "/var/lib/postgresql/data".into(), false);
    assert!(mounts(&postgres).contains(&volume));
}

#[test]
fn each_sees_only_its_own_secrets() {
    let mut readers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, service) in services() {
        let secrets =
            mounts(&service).into_iter().filter(|(what, ..)| what.starts_with("secrets-"));
        for (volume, _, read_only) in secrets {
            assert!(!secrets_of(&volume).is_empty());
            assert_eq!(read_only, name != "secrets", "{name}: {volume}");
            readers.entry(volume).or_default().push(name.clone());
        }
    }
    let expected = json!({
        "secrets-authority": ["certificate", "secrets"],
        "secrets-emqx": ["emqx", "secrets"],
        "secrets-fleetgate": ["certificate", "fleetgate", "secrets"],
        "secrets-postgres": ["migrate", "postgres", "secrets"],
    });
    assert_eq!(json!(readers), expected);
}

#[test]
fn secrets_belong_to_the_users_that_read_them() {
    let secrets = service("secrets");
    let owners = texts(&secrets["command"]);
    let owner = |part: &str| {
        let prefix = format!("--owner={part}=");
        owners.iter().find_map(|option| option.strip_prefix(&prefix)).unwrap().to_owned()
    };
    assert_eq!(json!(owner("fleetgate")), service("fleetgate")["user"]);
    assert_eq!(json!(owner("postgres")), service("postgres")["user"]);
    assert_eq!(json!(owner("postgres")), service("migrate")["user"]);
    // EMQX's image says who it runs as.
    assert_eq!(owner("emqx"), "1000:1000");
    for (volume, place, _) in mounts(&secrets) {
        assert_eq!(place, volume.replace("secrets-", "/secrets/"));
    }
}

#[test]
fn emqx_keeps_its_name_and_so_its_data() {
    let emqx = service("emqx");
    let host = emqx["hostname"].as_str().unwrap();
    assert_eq!(emqx["environment"]["EMQX_NODE_NAME"], format!("emqx@{host}"));
    assert_eq!(emqx["networks"]["labnet"]["aliases"], json!([host]));
    assert!(host.contains('.'), "Erlang's long names need a dot");
    assert!(mounts(&emqx).contains(&("emqx-data".into(), "/opt/emqx/data".into(), false)));
}

/// The file of a volume of secrets that a path in a service names.
fn secret(service: &Value, path: &str) -> (String, String) {
    let mounts = mounts(service).into_iter();
    let found = mounts.filter_map(|(volume, place, _)| {
        Some((volume, path.strip_prefix(&format!("{place}/"))?.to_owned()))
    });
    let (volume, file) = { found }.next().unwrap_or_else(|| panic!("{path} is not mounted"));
    assert!(secrets_of(&volume).contains(&file.as_str()), "{path}");
    (volume, file)
}

/// One role owns the tables, another serves, and the service that faces the network has only the latter's
/// password.
#[test]
fn the_schema_is_its_owners_and_another_role_serves() {
    let [postgres, migrate, fleetgate] = ["postgres", "migrate", "fleetgate"].map(service);
    let of =
        |service: &Value, name: &str| service["environment"][name].as_str().unwrap().to_owned();
    let owner = of(&postgres, "POSTGRES_USER");
    let user = |service: &Value| {
        let url = of(service, "FLEETGATE_DATABASE_URL");
        let rest = url.strip_prefix("postgres://").unwrap();
        rest.split_once('@').unwrap().0.to_owned()
    };
    assert_eq!(user(&migrate), owner);
    let serving = user(&fleetgate);
    assert_ne!(serving, owner);
    let password = "FLEETGATE_DATABASE_PASSWORD_FILE";
    let owners = secret(&postgres, &of(&postgres, "POSTGRES_PASSWORD_FILE"));
    assert_eq!(secret(&migrate, &of(&migrate, password)), owners);
    let options = texts(&migrate["command"]);
    let option = |name: &str| {
        let prefix = format!("--{name}=");
        options.iter().find_map(|option| option.strip_prefix(&prefix)).unwrap().to_owned()
    };
    assert_eq!(options[0], "migrate");
    assert_eq!(option("grant-to"), serving);
    // `secrets init` makes both copies of one secret.
    let given = secret(&migrate, &option("role-password-file"));
    let used = secret(&fleetgate, &of(&fleetgate, password));
    assert_eq!(given, ("secrets-postgres".into(), "database-password".into()));
    assert_eq!(used, ("secrets-fleetgate".into(), "database-password".into()));
}

/// The smoke test joins it. Secrets are made without any network.
#[test]
fn all_are_on_labnet() {
    assert_eq!(document()["networks"]["labnet"]["name"], "labnet");
    for (name, service) in services() {
        let on_it = texts(&service["networks"]) == ["labnet"]
            || service["networks"].get("labnet").is_some();
        assert_eq!(on_it, name != "secrets", "{name}");
    }
    assert_eq!(service("secrets")["network_mode"], "none");
}
