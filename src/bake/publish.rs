//! The one moment an image comes to be: its folder gets its name, all at once; an older one of that name goes after.

use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Undo;
use crate::error::{Context as _, Result};
use crate::provider::Resource;

/// Renames `staging`, which is armed on `undo`, to `published`. What had that name before has `staging`'s afterwards,
/// or another that is armed: the undo removes it. Someone who reads `published` meanwhile sees the old or the new.
///
/// # Errors
/// Exit 4; `published` is what it was then.
pub(super) fn publish(staging: &Path, published: &Path, undo: &Undo) -> Result<()> {
    let context = || format!("cannot publish {}", published.display());
    match renameat_with(CWD, staging, CWD, published, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // Nothing there to exchange with. The image's lock keeps others out of the moment in between.
        Err(Errno::NOENT) => std::fs::rename(staging, published).or_host(context)?,
        // File systems without exchange (and kernels): two renames, and a moment without the name.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => replace(staging, published, undo).or_host(context)?,
        Err(error) => return Err(error).or_host(context),
    }
    // Durable before anything older is removed.
    if let Some(folder) = published.parent() {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).or_host(context)?;
    }
    Ok(())
}

/// As an exchange, in two renames. The old image is armed only when the new one is there: killed in between, the old
/// one lies beside its place, and nobody removes it.
fn replace(staging: &Path, published: &Path, undo: &Undo) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut aside = staging.as_os_str().to_owned();
    aside.push(".old");
    let aside = std::path::PathBuf::from(aside);
    match std::fs::rename(published, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(std::fs::rename(staging, published)?),
        Err(error) => return Err(error.into()),
    }
    if let Err(error) = std::fs::rename(staging, published) {
        std::fs::rename(&aside, published)?;
        return Err(error.into());
    }
    // The new image is published: a journal that cannot be written is no reason to say it is not. The old one is on
    // the stack all the same.
    let _ = undo.arm(Resource::Path { path: aside });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, content: &str) {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("image"), content).unwrap();
    }

    fn content(path: &Path) -> String {
        std::fs::read_to_string(path.join("image")).unwrap()
    }

    #[test]
    fn a_new_name_and_an_exchange() {
        let dir = tempfile::tempdir().unwrap();
        let undo = Undo::open(&dir.path().join("journal")).unwrap();
        let (staging, published) = (dir.path().join(".x.run"), dir.path().join("x"));
        folder(&staging, "one");
        publish(&staging, &published, &undo).unwrap();
        assert_eq!(content(&published), "one");
        assert!(!staging.exists());
        folder(&staging, "two");
        publish(&staging, &published, &undo).unwrap();
        assert_eq!((content(&published), content(&staging)), ("two".into(), "one".into()));
    }

    #[tokio::test]
    async fn without_exchange_the_old_one_is_armed_and_comes_back_on_failure() {
        let dir = tempfile::Builder::new().prefix(crate::bake::tests::fake::PLACE).tempdir().unwrap();
        let undo = Undo::open(&dir.path().join("journal")).unwrap();
        let (staging, published) = (dir.path().join(".x.run"), dir.path().join("x"));
        folder(&published, "one");
        let before = undo.mark();
        replace(&staging, &published, &undo).unwrap_err();
        assert_eq!(undo.armed_since(before), []);
        assert_eq!(content(&published), "one");
        folder(&staging, "two");
        replace(&staging, &published, &undo).unwrap();
        let aside = dir.path().join(".x.run.old");
        assert_eq!((content(&published), content(&aside)), ("two".into(), "one".into()));
        let world = crate::bake::tests::fake::World::new();
        assert_eq!(undo.unwind(&world.provider()).await, []);
        assert!(!aside.exists());
        assert_eq!(content(&published), "two");
    }
}
