//! Fetching a release, from servers on loopback that do what they should not.

mod hostile;
mod network;
mod release_server;
