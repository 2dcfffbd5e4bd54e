//! Why secrets or certificates could not be made. Shows nothing of any secret.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use thiserror::Error;

use crate::authn::token::KeyFileError;

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "something else stands there: move it away, or choose another path"
        }
        _ => "check who owns it and whether the disk is full",
    }
}

/// Why secrets or certificates could not be made.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// The operating system said no.
    #[error("cannot {action} {}: {source}; {}", file.display(), remedy(source))]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        file: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Something else stands where a file or directory belongs. Symbolic links are not followed: what
    /// runs as root here must not be led elsewhere by whoever may write one part.
    #[error("{} is not a plain {wanted}; move it away and run this again", file.display())]
    Irregular {
        /// Where it stands.
        file: PathBuf,
        /// `file` or `directory`.
        wanted: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {wanted}; restore it, or move it away and run this again", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A secret that an operator chose would not do.
    #[error(
        "{variable} cannot be used: take 16 to 64 letters, digits and any of . _ ~ + / = -, not - at first, \
         with a letter and a digit; or leave it out, and a secret is drawn"
    )]
    UnfitChoice {
        /// The variable that gives it.
        variable: &'static str,
    },
    /// Two files that must belong together do not.
    #[error(
        "{} and {} do not hold the same {what}; keep the one that is right, move the other away and \
         run `fleetgate secrets init` again, which makes it from the first",
        first.display(), second.display()
    )]
    Contradiction {
        /// What both should hold.
        what: &'static str,
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A certificate or public key is there and its private key is gone.
    #[error(
        "{} is there, but its private key {} is not; restore the key, or move the former away, \
         which makes both anew ({consequence})",
        public.display(), private.display()
    )]
    KeyGone {
        /// The public half.
        public: PathBuf,
        /// Where the private half belongs.
        private: PathBuf,
        /// What making both anew means.
        consequence: &'static str,
    },
    /// A file that must be there is not.
    #[error("there is no {}; make it with `fleetgate secrets init --directory DIR`, or name the right --directory", .0.display())]
    Missing(PathBuf),
    /// A file would be overwritten.
    #[error("{} exists and is not overwritten; choose another --out, or move it away", .0.display())]
    Exists(PathBuf),
    /// The authority ends before what it should sign.
    #[error(
        "the authority {} ends at {ends}, before the certificate would; choose fewer --days, or move \
         the directory's authority/, and ca.pem and server.pem of emqx/tls/ and fleetgate/tls/ away, run \
         `fleetgate secrets init` and issue every certificate anew",
        file.display()
    )]
    AuthorityEnds {
        /// The authority's certificate.
        file: PathBuf,
        /// Its end.
        ends: Timestamp,
    },
    /// The authority has ended.
    #[error(
        "the authority ended at {0} and can sign nothing; move the directory's authority/, \
         and ca.pem and server.pem of emqx/tls/ and fleetgate/tls/ away, run `fleetgate secrets init` \
         again and issue every device's certificate anew"
    )]
    AuthorityEnded(Timestamp),
    /// A device's name does not fit into a certificate.
    #[error(
        "the name {0:?} has more than 64 characters, and a certificate's common name may not (X.520); give the device a shorter name"
    )]
    LongName(String),
    /// A device whose certificate would stand in the authority's file.
    #[error(
        "the certificate of a device named \"ca\" would be called ca.pem like the authority's; give the device another name"
    )]
    NamedLikeAuthority,
    /// A token-signing key is of no use.
    #[error(transparent)]
    SigningKey(#[from] KeyFileError),
    /// A token-signing key could not be written as PEM.
    #[error("a token-signing key could not be written as PEM: {0}")]
    Encoding(String),
    /// The certificate library said no.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
}
