use super::*;
use crate::bake::Reporter;
use crate::recipe::{LocalBase, PerArch};

struct World {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            cache_dir: folder.path().join("cache"),
            dist_dir: folder.path().join("dist"),
            runs_dir: folder.path().join("runs"),
            base: None,
            reporter: Reporter::silent(),
        };
        Self { folder, settings }
    }

    /// A raw disk of one MiB, told from others by `mark`.
    fn disk(&self, name: &str, mark: u8) -> PathBuf {
        let mut bytes = vec![mark; 1 << 20];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A base as `create` leaves it.
    fn own(&self, name: &str, made: &str, mark: u8) -> BaseEntry {
        let path = self.disk(&format!("cache/bases/{}", file_name(name, Arch::Amd64)), mark);
        let entry = BaseEntry {
            name: name.to_owned(),
            arch: Arch::Amd64,
            sha256: Sha256::of(&std::fs::read(&path).unwrap()),
            disk_bytes: 1 << 20,
            file_bytes: 1 << 20,
            made: made.parse().unwrap(),
            suite: "suite".to_owned(),
            packages: Vec::new(),
            path,
        };
        write_whole(&entry.path.with_extension("json"), &serde_json::to_vec(&entry).unwrap()).unwrap();
        entry
    }

    async fn resolve(&self, recipe: &Recipe, arch: Arch) -> Result<BaseImage> {
        resolve(&self.settings, recipe, self.folder.path(), arch).await
    }
}

fn recipe(local: Option<LocalBase>) -> Recipe {
    let mut recipe: Recipe = toml::from_str("name = \"test\"").unwrap();
    recipe.base.local = local;
    recipe
}

fn local(image: &str, digest: Option<String>) -> Option<LocalBase> {
    Some(LocalBase { image: PerArch::Same(image.to_owned()), digest: digest.map(PerArch::Same) })
}

#[tokio::test]
async fn the_override_goes_before_the_recipe_and_the_recipe_before_our_own() {
    let mut world = World::new();
    world.own("debian-12", "2026-01-01T00:00:00Z", 1);
    world.disk("images/recipe.img", 2);
    let override_path = world.disk("override.img", 3);
    let recipe = recipe(local("images/recipe.img", None));
    let own = world.resolve(&super::tests::recipe(None), Arch::Amd64).await.unwrap();
    assert_eq!(own.name, "debian-12");
    let named = world.resolve(&recipe, Arch::Amd64).await.unwrap();
    assert_eq!(named.name, "images/recipe.img");
    assert!(Path::new(&named.location).is_absolute() && named.disk_bytes == 1 << 20);
    world.settings.base = Some(Override { image: override_path.to_str().unwrap().to_owned(), digest: None });
    let overridden = world.resolve(&recipe, Arch::Amd64).await.unwrap();
    let digest = Sha256::of(&std::fs::read(override_path).unwrap());
    assert_eq!(overridden.identity, format!("sha256:{digest}"));
}

#[tokio::test]
async fn without_any_base_the_way_to_one_is_told() {
    let world = World::new();
    let error = world.resolve(&recipe(None), Arch::Amd64).await.unwrap_err();
    assert_eq!(error.exit().code(), 4);
    assert!(error.hint().unwrap().contains("amibake base create"));
    world.own("debian-12", "2026-01-01T00:00:00Z", 1);
    let error = world.resolve(&recipe(None), Arch::Arm64).await.unwrap_err();
    assert!(error.to_string().contains("arm64"), "{error}");
    let missing = world.resolve(&recipe(local("none.img", None)), Arch::Amd64).await.unwrap_err();
    assert_eq!(missing.exit().code(), 4);
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_the_right_one_of_either_kind_is_not() {
    use sha2::Digest as _;
    let world = World::new();
    let bytes = std::fs::read(world.disk("a.img", 1)).unwrap();
    let long: String = sha2::Sha512::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    for right in [format!("sha256:{}", Sha256::of(&bytes)), format!("sha512:{long}")] {
        world.resolve(&recipe(local("a.img", Some(right))), Arch::Amd64).await.unwrap();
    }
    let wrong = format!("sha256:{}", Sha256::of(b"other"));
    let error = world.resolve(&recipe(local("a.img", Some(wrong))), Arch::Amd64).await.unwrap_err();
    assert_eq!(error.exit().code(), 3);
}

#[tokio::test]
async fn a_base_of_our_own_that_was_changed_is_refused() {
    let world = World::new();
    let entry = world.own("debian-12", "2026-01-01T00:00:00Z", 1);
    world.disk("cache/bases/debian-12-amd64.qcow2", 9);
    let error = world.resolve(&recipe(None), Arch::Amd64).await.unwrap_err();
    assert_eq!(error.exit().code(), 3);
    assert!(error.to_string().contains(entry.path.to_str().unwrap()));
}

#[tokio::test]
async fn the_newest_of_our_own_is_taken_and_all_are_listed() {
    let world = World::new();
    assert_eq!(list(&world.settings.cache_dir).unwrap(), []);
    let newer = world.own("debian-12", "2026-02-01T00:00:00Z", 1);
    let older = world.own("ubuntu-24.04", "2026-01-01T00:00:00Z", 2);
    std::fs::write(newer.path.with_file_name("broken.json"), b"{").unwrap();
    let gone = world.own("debian-11", "2026-03-01T00:00:00Z", 3);
    std::fs::remove_file(gone.path).unwrap();
    assert_eq!(list(&world.settings.cache_dir).unwrap(), [newer, older]);
    assert_eq!(world.resolve(&recipe(None), Arch::Amd64).await.unwrap().name, "debian-12");
}

#[tokio::test]
async fn a_url_needs_a_digest_and_its_password_is_not_shown() {
    let world = World::new();
    let url = "https://me:secret@images.test/a.qcow2";
    let error = world.resolve(&recipe(local(url, None)), Arch::Amd64).await.unwrap_err();
    assert_eq!(error.exit().code(), 2);
    assert!(!crate::error::render(&error).contains("secret"));
    let error = world.resolve(&recipe(local("ftp://a.test/x", None)), Arch::Amd64).await.unwrap_err();
    assert_eq!(error.exit().code(), 2);
}

#[tokio::test]
async fn a_downloaded_base_that_is_in_the_cache_is_not_fetched_again() {
    let world = World::new();
    let bytes = std::fs::read(world.disk("a.img", 1)).unwrap();
    let digest = Sha256::of(&bytes);
    world.disk(&format!("cache/bases/sha256-{digest}.img"), 1);
    // Nothing answers at this address.
    let url = "http://127.0.0.1:1/a.img";
    let base = world.resolve(&recipe(local(url, Some(format!("sha256:{digest}")))), Arch::Amd64).await.unwrap();
    assert_eq!((base.name.as_str(), base.identity), (url, format!("sha256:{digest}")));
}
