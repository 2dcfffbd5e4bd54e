//! The `fleetgate` binary: everything it does lives in the library.

fn main() -> std::process::ExitCode {
    fleetgate::cli::run()
}
