//! What the members of an archive are to each other.

use std::collections::BTreeMap;

use super::Refusal;
use super::header::{Header, Kind};
use super::name;

/// What lies at a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A folder that has a member of its own.
    Folder,
    /// A folder that only other members' names imply.
    Implied,
    File,
    Link,
}

/// The members so far, by their plain names.
#[derive(Default)]
pub(super) struct Tree {
    places: BTreeMap<String, Place>,
    files: Vec<String>,
    members: usize,
}

impl Tree {
    /// Members so far.
    pub(super) fn len(&self) -> usize {
        self.members
    }

    /// The regular files, in their order in the archive.
    pub(super) fn into_files(self) -> Vec<String> {
        self.files
    }

    /// Takes a member in and returns its plain name.
    pub(super) fn add(&mut self, entry: &Header) -> Result<String, Refusal> {
        let refuse = |reason: &str| Refusal::member(&entry.name, reason);
        let name = name::plain(&entry.name).map_err(refuse)?;
        self.members += 1;
        if entry.kind != Kind::Folder && (name.is_empty() || ends_like_a_folder(&entry.name)) {
            return Err(refuse("it has the name of a folder and is none"));
        }
        let place = match entry.kind {
            Kind::Folder => Place::Folder,
            Kind::Symlink => {
                name::stays(&name, &entry.link).map_err(refuse)?;
                Place::Link
            }
            Kind::Hardlink => {
                let target = name::plain(&entry.link).ok();
                if !target.is_some_and(|target| self.places.get(&target) == Some(&Place::File)) {
                    return Err(refuse("it is a hard link to something that is no file before it in the tree"));
                }
                Place::Link
            }
            _ => Place::File,
        };
        self.imply_parents(&name).map_err(|parent| {
            refuse(&format!("it lies beneath `{}`, which is no folder", name::printable(parent.as_bytes())))
        })?;
        match self.places.insert(name.clone(), place) {
            None => {}
            Some(Place::Implied) if place == Place::Folder => {}
            Some(Place::Implied) => return Err(refuse("another member lies beneath it, and it is no folder")),
            Some(_) => return Err(refuse("it is listed twice")),
        }
        if place == Place::File {
            self.files.push(name.clone());
        }
        Ok(name)
    }

    /// Everything above `name` is a folder; the error is the one that is not.
    fn imply_parents(&mut self, name: &str) -> Result<(), String> {
        for (at, _) in name.match_indices('/') {
            let parent = &name[..at];
            match self.places.get(parent) {
                Some(Place::Folder | Place::Implied) => {}
                Some(_) => return Err(parent.to_owned()),
                None => drop(self.places.insert(parent.to_owned(), Place::Implied)),
            }
        }
        Ok(())
    }
}

fn ends_like_a_folder(raw: &[u8]) -> bool {
    raw.ends_with(b"/") || raw.ends_with(b"/.")
}
