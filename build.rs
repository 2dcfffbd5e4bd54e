//! Builds anew when a migration changes: the binary carries them.

fn main() {
    println!("cargo:rerun-if-changed=sql");
}
