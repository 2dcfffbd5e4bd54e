//! Reading files that a person names: of bounded size, in bounded time.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use zeroize::Zeroizing;

/// How long to wait for what a pipe holds.
const PIPE_LIMIT: Duration = Duration::from_secs(5);

/// A file's content. A pipe, such as a shell's `<(…)`, has 5 seconds.
///
/// # Errors
/// Those of the operating system; [`ErrorKind::FileTooLarge`] for more than `limit` bytes;
/// [`ErrorKind::TimedOut`] for a pipe that nobody writes to.
pub fn read_at_most(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    if std::fs::metadata(path)?.is_file() {
        return read_now(path, limit);
    }
    let (sender, receiver) = mpsc::channel();
    let owned = path.to_owned();
    // It may wait for ever; then the process ends without it.
    thread::Builder::new().spawn(move || sender.send(read_now(&owned, limit)))?;
    receiver.recv_timeout(PIPE_LIMIT).unwrap_or_else(|_| {
        let message =
            format!("it is not a plain file, and nobody wrote to its end within {PIPE_LIMIT:?}");
        Err(io::Error::new(ErrorKind::TimedOut, message))
    })
}

fn read_now(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("the file is longer than {limit} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}
