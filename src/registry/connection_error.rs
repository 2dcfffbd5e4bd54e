//! Why PostgreSQL cannot be used, in words that name the cause and the remedy.
//!
//! Two kinds: what waiting may end ([`RegistryError::Unreachable`]: a server that is away, full, starting, a
//! standby) and what an operator has to change first ([`RegistryError::Unusable`]: a password, a
//! certificate, a database that is not there). SQLSTATEs are those of PostgreSQL's Appendix A.

use std::error::Error as _;
use std::io::ErrorKind;

use rustls::{AlertDescription, CertificateError};
use tokio_postgres::error::DbError;

use crate::causes::causes;
use crate::registry::error::RegistryError;

/// `EMFILE` and `ENFILE`.
const NO_DESCRIPTORS: [i32; 2] = [24, 23];

/// What an answer of PostgreSQL means that is about the server or the session, and not about the statement.
/// `place` is where the server is, or the thing that was worked on.
pub(super) fn of_answer(answer: &DbError, place: &str) -> Option<RegistryError> {
    let code = answer.code().code();
    let text = format!("{place}: {} (SQLSTATE {code})", answer.message());
    let passing = |remedy: &str| Some(RegistryError::Unreachable(format!("{text}; {remedy}")));
    let unfit = |remedy: &str| Some(RegistryError::SessionUnfit(format!("{text}; {remedy}")));
    let lasting = |remedy: &str| Some(RegistryError::Unusable(format!("{text}; {remedy}")));
    match code {
        "53100" => passing("the disk of the database server is full: free space there"),
        "53200" => passing("the database server is out of memory: give it more, or less to do"),
        "53300" => passing(
            "all connections are taken: raise max_connections in PostgreSQL (or the limit of the role or \
             database), or lower database.pool_size",
        ),
        "53000" | "53400" => passing(
            "the database server lacks a resource: raise its limit (open files: LimitNOFILE, ulimit -n)",
        ),
        "57P03" => passing("PostgreSQL is starting or stopping: wait, or look into its log"),
        "57P01" | "57P02" => {
            passing("PostgreSQL ended the session: it is being stopped or restarted")
        }
        "57P04" => passing("the database was dropped while it was in use"),
        "57P05" => passing("idle_session_timeout ended the session; the next one opens a new one"),
        "57014" | "55P03" => Some(RegistryError::TookTooLong(format!(
            "{text}; it took too long: look for locks and load in pg_stat_activity"
        ))),
        "25006" => unfit(
            "the server takes no writes: it is a standby, or default_transaction_read_only is on for the \
             server, role or database; name the primary in database.url, or several hosts",
        ),
        "28P01" => lasting("check database.password, or the password in database.url"),
        "28000" if text.contains("no encryption") => {
            lasting("PostgreSQL wants TLS: add sslmode=verify-full to database.url")
        }
        "28000" if text.contains("certificate") => lasting(
            "PostgreSQL wants a certificate from us: name sslcert and sslkey in database.url",
        ),
        "28000" => lasting("check the role in database.url, and pg_hba.conf of the server"),
        "3D000" => lasting("create the database, or correct its name in database.url"),
        "42501" => {
            lasting("the role lacks a right: GRANT it (`fleetgate doctor` lists what is needed)")
        }
        "08P01" if text.contains("startup parameter") => lasting(
            "a pooler refuses a part of database.url: take `options` out of it, and set them with ALTER ROLE \
             … SET",
        ),
        "0A000" if text.contains("conversion between") => {
            Some(wrong_encoding(place, answer.message()))
        }
        // What a pooler with its own sessions, or DISCARD, does to ours.
        "26000" | "42P05" => unfit("the session lost its prepared statements; a new one is opened"),
        "0A000" if text.contains("cached plan") => {
            unfit("a table changed; a new session is opened")
        }
        _ => match code.get(..2) {
            Some("08" | "53" | "57") => passing("check PostgreSQL's log"),
            Some("58") => {
                passing("the database server fails to read or write: check its disk and log")
            }
            Some("28") => lasting("check the role in database.url, and pg_hba.conf of the server"),
            _ => None,
        },
    }
}

/// `why` ends an attempt to connect to `place`, such as `db.example.net:5432`.
pub(super) fn of_connecting(why: &tokio_postgres::Error, place: &str) -> RegistryError {
    if let Some(answer) = why.as_db_error() {
        return of_answer(answer, place).unwrap_or_else(|| RegistryError::Database {
            thing: place.to_owned(),
            message: format!("{} (SQLSTATE {})", answer.message(), answer.code().code()),
        });
    }
    if let Some(problem) = tls_problem(why) {
        return of_tls(problem, place);
    }
    let text = causes(why);
    if text.contains("server does not support TLS") {
        return RegistryError::Unusable(format!(
            "{place}: the server does not speak TLS, which database.url asks for; turn it on there (ssl = \
             on), or, where the network is trusted, write sslmode=disable"
        ));
    }
    if text.contains("password missing") {
        return RegistryError::Unusable(format!(
            "{place}: PostgreSQL asks for a password and none is given; set database.password"
        ));
    }
    if text.contains("authentication") || text.contains("SASL") {
        return RegistryError::Unusable(format!(
            "{place}: {text}; check how pg_hba.conf of the server wants this role to log in"
        ));
    }
    match io_problem(why) {
        Some(problem) => of_io(problem, place),
        None if why.is_closed() => RegistryError::Unreachable(hung_up(place)),
        None => RegistryError::Unusable(no_postgres(place, &text)),
    }
}

pub(super) fn no_postgres(place: &str, text: &str) -> String {
    format!("{place} is not a PostgreSQL server ({text}); check host and port in database.url")
}

fn hung_up(place: &str) -> String {
    format!(
        "{place}: the server hung up; check that it is PostgreSQL and that it runs, and look into its log"
    )
}

/// A failure of the operating system on the way to `place`.
pub(super) fn of_io(why: &std::io::Error, place: &str) -> RegistryError {
    if why.raw_os_error().is_some_and(|code| NO_DESCRIPTORS.contains(&code)) {
        return RegistryError::Unreachable(format!(
            "{place}: {why}: raise the limit of open files (LimitNOFILE, ulimit -n), or lower \
             http.max_connections"
        ));
    }
    match why.kind() {
        ErrorKind::ConnectionRefused => RegistryError::Unreachable(format!(
            "nothing listens at {place} ({why}); check that PostgreSQL runs and that host and port in \
             database.url are right"
        )),
        ErrorKind::NotFound => RegistryError::Unreachable(format!(
            "there is no socket of PostgreSQL at {place} ({why}); check that PostgreSQL runs and that host \
             and port in database.url are right"
        )),
        ErrorKind::PermissionDenied => RegistryError::Unusable(format!(
            "{place}: {why}; this user may not connect there: check the permissions of the socket, or the \
             firewall"
        )),
        // What the protocol's codec says of bytes that are not PostgreSQL's.
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            RegistryError::Unusable(no_postgres(place, &why.to_string()))
        }
        // The same at the end of the stream, where PostgreSQL may also have broken off.
        ErrorKind::Other if why.raw_os_error().is_none() => {
            RegistryError::Unreachable(no_postgres(place, &why.to_string()))
        }
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            RegistryError::Unreachable(hung_up(place))
        }
        _ => RegistryError::Unreachable(format!(
            "{place} cannot be reached: {why}; check the network between"
        )),
    }
}

fn of_tls(why: &rustls::Error, place: &str) -> RegistryError {
    use CertificateError as Bad;
    let text = match why {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => "the server's certificate is signed by an authority \
                that we do not trust; name the file of the right one with sslrootcert in database.url, or \
                database.ca_file"
                .to_owned(),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => format!(
                "the server's certificate is for another name ({bad}); write the name that it is for as host \
                 in database.url (with hostaddr, if needed), or have one made for this name"
            ),
            Bad::Expired | Bad::ExpiredContext { .. } => {
                format!("the server's certificate has expired ({bad}); renew it there")
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                format!("the server's certificate is not valid yet ({bad}); check both clocks")
            }
            other => format!("the server's certificate cannot be used ({other}); have another one made"),
        },
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        other => format!("TLS with the server failed: {other}"),
    };
    RegistryError::Unusable(format!("{place}: {text}"))
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            "the server wants a certificate from us: name sslcert and sslkey in \
                                       database.url"
                .to_owned()
        }
        Alert::UnknownCA
        | Alert::BadCertificate
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::DecryptError => format!(
            "the server refuses our certificate ({alert:?}); have sslcert signed by the authority of its \
             ssl_ca_file, and see that it has not expired"
        ),
        other => format!("the server ends TLS ({other:?}); look into its log"),
    }
}

/// rustls' error inside another one, at any depth.
fn tls_problem(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    io_problem(error)?.get_ref()?.downcast_ref()
}

fn io_problem(error: &tokio_postgres::Error) -> Option<&std::io::Error> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<std::io::Error>() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

pub(super) fn wrong_encoding(place: &str, encoding: &str) -> RegistryError {
    RegistryError::Unusable(format!(
        "{place}: the database has the encoding {encoding}; Fleetgate needs UTF8. Create one with: createdb \
         --encoding=UTF8 --template=template0 fleetgate"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(kind: ErrorKind) -> String {
        of_io(&kind.into(), "db:5432").to_string()
    }

    #[test]
    fn only_servers_that_do_not_answer_may_not_run() {
        for kind in [ErrorKind::ConnectionRefused, ErrorKind::NotFound] {
            assert!(io(kind).contains("check that PostgreSQL runs"), "{}", io(kind));
        }
        let full = of_io(&std::io::Error::from_raw_os_error(24), "db:5432");
        assert!(full.is_unreachable() && full.to_string().contains("LimitNOFILE"), "{full}");
        assert!(io(ErrorKind::InvalidInput).contains("not a PostgreSQL server"));
        let denied = of_io(&ErrorKind::PermissionDenied.into(), "/run/x");
        assert!(!denied.is_unreachable());
    }

    #[test]
    fn certificate_problems_are_distinguished() {
        let text = |bad| of_tls(&rustls::Error::InvalidCertificate(bad), "db:5432").to_string();
        assert!(text(CertificateError::UnknownIssuer).contains("sslrootcert"));
        assert!(text(CertificateError::NotValidForName).contains("another name"));
        assert!(text(CertificateError::Expired).contains("expired"));
        let alert = |alert| of_tls(&rustls::Error::AlertReceived(alert), "db:5432").to_string();
        assert!(alert(AlertDescription::CertificateRequired).contains("sslcert"));
        assert!(alert(AlertDescription::UnknownCA).contains("ssl_ca_file"));
    }
}
