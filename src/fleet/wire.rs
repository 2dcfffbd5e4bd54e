//! What both ends of the HTTP API write, or hold to: [`crate::http::api`] and [`crate::remote`].

/// Where the API is below the URL of a service.
pub const ROOT: &str = "/api/v1";
/// What the type of every problem (RFC 9457) begins with; a word follows.
pub const PROBLEM: &str = "urn:fleetgate:problem:";
/// The header of an export that tells how many credentials it leaves out.
pub const LEFT_OUT: &str = "fleetgate-credentials-left-out";
/// Most bytes of a dry run of an import: they are held in memory.
pub const MAX_TRIED_BYTES: usize = 16 * 1024 * 1024;
