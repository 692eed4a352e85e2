//! Fetching a release, from servers on loopback that do what they should not.

// Said though it always holds here: only so does clippy know that helpers are test code, too.
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod network;
#[cfg(test)]
mod release_server;
