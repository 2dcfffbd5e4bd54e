//! `fleetgate token key`: making and showing keys.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::pkcs8::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use serde::Serialize;

use crate::authn::token::{KeyFileError, key_id, new_signing_key, read_verification_key};
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::write_file;

/// Make a signing key and its public half.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// File for the private key (PKCS#8 PEM, mode 0600); the public half goes beside it, as
    /// FILE with the ending `.pub.pem`. Neither is ever overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Show the key id and the public half of keys.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Key files: public keys, or private keys of which the public half is shown.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A key as it is shown: nothing of the private half.
#[derive(Debug, Serialize)]
struct ShownKey {
    kid: String,
    file: PathBuf,
    public_pem: String,
}

#[derive(Debug, Serialize)]
struct GeneratedKey {
    kid: String,
    private_file: PathBuf,
    public_file: PathBuf,
    public_pem: String,
}

pub(super) fn generate(args: &GenerateArgs, output: Output) -> Result<(), CliError> {
    let public_file = args.out.with_extension("pub.pem");
    let key = generate_key(&args.out)?.ok_or_else(|| exists(&args.out))?;
    let public_pem = public_pem(&key, &args.out)?;
    let written = match write_new(&public_file, &public_pem, 0o644) {
        Ok(true) => Ok(()),
        Ok(false) => Err(exists(&public_file)),
        Err(error) => Err(error),
    };
    written.inspect_err(|_| {
        // Made just now and known to nobody: a half-made pair would only be in the way.
        let _ = fs::remove_file(&args.out);
    })?;
    let (kid, private_file) = (key_id(&key), args.out.clone());
    let text = format!(
        "{public_pem}kid:         {kid}\nprivate key: {}  (tokens.signing_key, only where tokens are issued)\n\
         public key:  {}  (tokens.verification_keys of every fleetgate that serves)",
        private_file.display(),
        public_file.display(),
    );
    let generated = GeneratedKey { kid, private_file, public_file, public_pem };
    output.result(&generated, || text)
}

pub(super) fn show(args: &ShowArgs, output: Output) -> Result<(), CliError> {
    let keys: Vec<ShownKey> =
        args.files.iter().map(|file| shown(file)).collect::<Result<_, _>>()?;
    let texts = || {
        let texts = keys.iter().map(|key| {
            format!(
                "{}  {}
{}",
                key.kid,
                key.file.display(),
                key.public_pem
            )
        });
        texts.collect::<Vec<_>>().join(
            "
",
        )
    };
    output.result(&keys, texts)
}

fn shown(file: &Path) -> Result<ShownKey, CliError> {
    let key = read_verification_key(file).map_err(CliError::failed)?;
    Ok(ShownKey { kid: key_id(&key), file: file.to_owned(), public_pem: public_pem(&key, file)? })
}

/// Makes a signing key in a new file of mode 0600, and tells its public half. `None`: the file exists, and stays as it is.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn generate_key(file: &Path) -> Result<Option<VerifyingKey>, CliError> {
    let pem = new_signing_key()
        .map_err(|error| CliError::Failed(format!("the signing key cannot be encoded: {error}")))?;
    match write_new(file, &pem, 0o600)? {
        true => read_verification_key(file).map(Some).map_err(CliError::failed),
        false => Ok(None),
    }
}

fn public_pem(key: &VerifyingKey, file: &Path) -> Result<String, CliError> {
    let pem = key.to_public_key_pem(LineEnding::LF);
    pem.map_err(|_| CliError::failed(KeyFileError::NoKey(file.to_owned())))
}

/// Writes a file that is not there yet; `false`: it is.
fn write_new(file: &Path, text: &str, mode: u32) -> Result<bool, CliError> {
    match write_file::create(file, text, mode, None) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            let file = file.display();
            Err(CliError::Failed(format!("cannot write {file}: {error}; choose another --out")))
        }
    }
}

fn exists(file: &Path) -> CliError {
    let file = file.display();
    CliError::Failed(format!(
        "{file} exists and is not overwritten; choose another --out, or move it away"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::authn::token::read_signing_key;

    const TEXT: Output = Output { json: false };

    fn refused(args: &GenerateArgs) -> String {
        generate(args, TEXT).unwrap_err().to_string()
    }

    #[test]
    fn a_generated_pair_belongs_together_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let args = GenerateArgs { out: directory.path().join("signing.pem") };
        generate(&args, TEXT).unwrap();
        let public_file = directory.path().join("signing.pub.pem");
        let signing = read_signing_key(&args.out).unwrap();
        assert_eq!(signing.verifying_key(), read_verification_key(&public_file).unwrap());
        assert_eq!(fs::metadata(&args.out).unwrap().permissions().mode() & 0o777, 0o600);

        let before = fs::read(&args.out).unwrap();
        assert!(refused(&args).contains("exists and is not overwritten"));
        assert_eq!(fs::read(&args.out).unwrap(), before);
    }

    #[test]
    fn a_public_half_in_the_way_leaves_no_half_made_pair() {
        let directory = tempfile::tempdir().unwrap();
        let args = GenerateArgs { out: directory.path().join("signing.pem") };
        fs::write(directory.path().join("signing.pub.pem"), "another").unwrap();
        assert!(refused(&args).contains("signing.pub.pem exists and is not overwritten"));
        assert!(!args.out.exists());
    }

    #[test]
    fn both_halves_are_shown_as_the_same_public_key() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("signing.pem");
        generate(&GenerateArgs { out: out.clone() }, TEXT).unwrap();
        let private = shown(&out).unwrap();
        let public = shown(&directory.path().join("signing.pub.pem")).unwrap();
        assert_eq!((&private.kid, &private.public_pem), (&public.kid, &public.public_pem));
        assert!(private.public_pem.starts_with("-----BEGIN PUBLIC KEY-----"));
    }
}
