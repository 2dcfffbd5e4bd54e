//! The stack in `docker/` and `emqx-config/` as far as it can be checked without starting it: its parts
//! agree with each other and with the program.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "clippy allows these in tests by itself, but not in what tests share"
)]

mod compose;
mod emqx;
mod hocon;
mod image;
mod page;
mod scripts;
mod services;
mod settings;
mod state;
mod variables;

/// What `fleetgate secrets init` makes, by the volume that holds it.
const SECRETS: &[(&str, &[&str])] = &[
    (
        "secrets-fleetgate",
        &[
            "webhook-token",
            "emqx-api-secret",
            "database-password",
            "token-signing.pem",
            "token-signing.pub.pem",
            "tls/ca.pem",
            "tls/server.pem",
            "tls/server.key",
        ],
    ),
    (
        "secrets-emqx",
        &[
            "webhook-token.hocon",
            "api-keys",
            "dashboard-password",
            "node-cookie",
            "tls/ca.pem",
            "tls/server.pem",
            "tls/server.key",
        ],
    ),
    ("secrets-postgres", &["owner-password", "database-password"]),
    ("secrets-authority", &["ca.pem", "ca.key"]),
];

/// The files of a volume of secrets.
fn secrets_of(volume: &str) -> &'static [&'static str] {
    SECRETS.iter().find(|(name, _)| *name == volume).unwrap().1
}

/// A file of the checkout.
fn text_of(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}
