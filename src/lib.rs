//! amibake: bakes the matched builder and agent machine images for remote BuildKit builds.
//!
//! The map of the modules, in the order of a bake (DESIGN, "Flow"):
//!
//! - [`cli`]: arguments → settings; [`commands`] wires the rest together, one file a command.
//! - [`config`]: `amibake.toml`, what a project decides for all commands.
//! - [`recipe`]: TOML → a valid [`recipe::Recipe`], all faults at once.
//! - [`release`]: versions, the index, evidence, the lock, fetching and verifying; the only maker of [`release::Artifact`].
//! - [`download`]: the one downloader.
//! - [`plan`]: pure: recipe + lock + facts → [`plan::Plan`] and its fingerprint.
//! - [`provider`]: who supplies machines; `local` (QEMU) behind the traits.
//! - [`bake`]: the executor: plan × machine → image; undo stack, journal, events, the one wait loop.
//! - [`certs`]: an authority of one's own, for the builder and its agents.
//! - [`catalog`]: pure: what exists, what is in use, what may go.
//! - [`doctor`]: what stands between a job and its builder.
//! - [`render`]: pure: what users paste elsewhere.
//! - [`report`]: events → what a person, a pipe or a program reads.
//! - [`error`]: exit status, hints, one renderer.

pub mod bake;
pub mod catalog;
pub mod certs;
pub mod cli;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod download;
pub mod error;
pub mod plan;
pub mod provider;
pub mod recipe;
pub mod release;
pub mod render;
pub mod report;

pub use error::{Error, Exit, Result};
