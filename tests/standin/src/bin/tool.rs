//! Stands where a release has buildkit-runc, the CNI plugins and the emulators: says what it is, and does nothing.

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    println!(
        "{name} {} ({}): not a {name}, it stands in for one in tests",
        amibake_standin::version::own(),
        amibake_standin::REVISION
    );
    if std::env::args().nth(1).is_some_and(|argument| argument != "--version") {
        std::process::exit(1);
    }
}
