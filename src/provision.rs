//! The secrets and certificates of a whole bus: what stands where, and how it gets there.
//!
//! Each [`files::Part`] of the bus has a subdirectory of its own, so that it can be given its own
//! secrets and no other's. Nothing that exists is ever overwritten, with one exception: the two server
//! certificates (EMQX's and the HTTP API's) that this authority signed are renewed when their end is near or their
//! names are wrong (see [`server`]).

pub mod authority;
pub mod certificate;
pub mod chosen;
pub mod device;
mod draw;
pub mod error;
pub mod files;
pub mod init;
pub mod names;
mod server;
pub mod shared;
mod signing;
