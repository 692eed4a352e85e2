//! Runs that are killed, journals that cannot be written, and the sweep that comes after.

use std::io::{self, Write};

use super::fake::{Trap, World};
use super::journal::Journal;
use super::*;
use crate::provider::Resource;

/// Bakes until `node`, and kills the run there: nothing is unwound. Its journal then names a process that is gone.
async fn killed_at(place: &Place, node: usize) -> Option<Arc<World>> {
    let world = World::trapped(node, Trap::Freeze);
    let (job, cancel) = (place.job(), CancellationToken::new());
    tokio::select! {
        result = run(&job, &world, &cancel) => { result.unwrap(); return None }
        () = world.frozen.notified() => {}
    }
    bury(&place.run_dir());
    Some(world)
}

/// Makes the journal one of a process that is gone: this very process, started at another time.
fn bury(run_dir: &Path) {
    let text = journal(run_dir);
    let line = text.lines().next().unwrap();
    let owner = format!(r#"{{"record":"opened","schema":1,"owner":{{"pid":{},"started":1}}}}"#, std::process::id());
    assert!(line.contains("\"opened\""));
    std::fs::write(run_dir.join(JOURNAL), text.replacen(line, &owner, 1)).unwrap();
}

async fn swept(place: &Place, world: &Arc<World>) -> (Vec<Leftover>, Vec<String>) {
    let memory = Arc::new(Memory::default());
    let reporter = Reporter::new("", vec![memory.clone()]);
    let leftovers = sweep(&place.runs(), &world.provider(), &reporter).await.unwrap();
    (leftovers, memory.warnings())
}

#[tokio::test(start_paused = true)]
async fn what_a_run_killed_at_any_node_left_is_swept() {
    for node in 0.. {
        let place = Place::new();
        place.older_image();
        let Some(world) = killed_at(&place, node).await else { break };
        assert_eq!(swept(&place, &world).await, (vec![], vec![]), "node {node}");
        place.assert_clean(&world, &format!("node {node}"));
        assert!(journal(&place.run_dir()).ends_with("{\"record\":\"done\"}\n"));
        // Again: there is nothing to do, and nothing is done.
        let before = journal(&place.run_dir());
        assert_eq!(swept(&place, &world).await, (vec![], vec![]));
        assert_eq!(journal(&place.run_dir()), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_journal_torn_by_the_kill_is_swept_by_what_is_whole() {
    let place = Place::new();
    let world = killed_at(&place, 5).await.unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(place.run_dir().join(JOURNAL)).unwrap();
    file.write_all(b"{\"record\":\"armed\",\"resou").unwrap();
    assert_eq!(swept(&place, &world).await, (vec![], vec![]));
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_swept_is_told_and_tried_next_time() {
    let place = Place::new();
    let world = killed_at(&place, 5).await.unwrap();
    world.fail_removals(4);
    let (leftovers, _) = swept(&place, &world).await;
    assert_eq!(leftovers.len(), 2, "{leftovers:?}");
    assert_eq!(swept(&place, &world).await.0, []);
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_lives_is_not_swept() {
    let place = Place::new();
    let world = World::trapped(5, Trap::Freeze);
    let (job, cancel) = (place.job(), CancellationToken::new());
    let run = run(&job, &world, &cancel);
    tokio::pin!(run);
    tokio::select! {
        result = &mut run => panic!("{result:?}"),
        () = world.frozen.notified() => {}
    }
    // By its lock on the journal, even if the process number says nothing (another container's, say).
    bury(&place.run_dir());
    assert_eq!(swept(&place, &world).await, (vec![], vec![]));
    assert_eq!(world.live().len(), 1);
    cancel.cancel();
    run.await.unwrap_err();
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_lives_is_believed_where_locks_are_not() {
    let (place, world) = (Place::new(), World::trapped(5, Trap::Freeze));
    let (job, cancel) = (place.job(), CancellationToken::new());
    tokio::select! {
        result = run(&job, &world, &cancel) => panic!("{result:?}"),
        () = world.frozen.notified() => {}
    }
    // The journal is unlocked by now, and names this process.
    assert_eq!(swept(&place, &world).await, (vec![], vec![]));
    assert_eq!(world.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_image_is_never_swept() {
    let (place, world) = (Place::new(), World::new());
    run(&place.job(), &world, &CancellationToken::new()).await.unwrap();
    // As if it had been killed just before it wrote the last record.
    let text = journal(&place.run_dir()).replace("{\"record\":\"done\"}\n", "");
    std::fs::write(place.run_dir().join(JOURNAL), text).unwrap();
    bury(&place.run_dir());
    assert_eq!(swept(&place, &world).await, (vec![], vec![]));
    place.assert_baked(&world, "");
}

/// A machine that was left for inspection, with a real process as its machine.
async fn left_running(place: &Place, process: Resource) {
    std::fs::create_dir_all(place.run_dir().join("machine")).unwrap();
    let undo = Undo::open(&place.run_dir().join(JOURNAL)).unwrap();
    let folder = Resource::Path { path: place.run_dir().join("machine") };
    undo.arm(folder.clone()).unwrap();
    undo.arm(process.clone()).unwrap();
    undo.leave(&folder).unwrap();
    undo.leave(&process).unwrap();
    assert_eq!(undo.unwind(&World::new().provider()).await, []);
    drop(undo);
    bury(&place.run_dir());
}

#[tokio::test(start_paused = true)]
async fn a_machine_left_for_inspection_is_swept_once_it_has_ended() {
    let me = owner::Owner::current();
    let running = Resource::Process { pid: me.pid, started: me.started.unwrap() };
    let (place, world) = (Place::new(), World::new());
    left_running(&place, running).await;
    assert_eq!(swept(&place, &world).await, (vec![], vec![]));
    assert!(place.run_dir().join("machine").exists());

    let ended = Resource::Process { pid: me.pid, started: 1 };
    let place = Place::new();
    left_running(&place, ended).await;
    assert_eq!(swept(&place, &world).await, (vec![], vec![]));
    place.assert_clean(&world, "");
}

#[tokio::test(start_paused = true)]
async fn a_journal_cannot_have_what_is_not_the_runs_removed() {
    let place = Place::new();
    let precious = place.dir.path().join("precious");
    std::fs::create_dir_all(precious.join("deep")).unwrap();
    std::fs::create_dir_all(place.run_dir()).unwrap();
    std::os::unix::fs::symlink(&precious, place.run_dir().join("link")).unwrap();
    let undo = Undo::open(&place.run_dir().join(JOURNAL)).unwrap();
    let run_dir = place.run_dir();
    // All of them are in this test's own folder: should the sweep believe one, nothing of the machine is lost.
    let foreign = [precious.clone(), run_dir.join("../../precious"), run_dir.join("link/deep")];
    for path in &foreign {
        undo.arm(Resource::Path { path: path.clone() }).unwrap();
    }
    undo.record(&journal::Record::Locked { path: precious.join("Cargo.lock") }).unwrap();
    std::fs::write(precious.join("Cargo.lock"), "process of its own").unwrap();
    drop(undo);
    bury(&run_dir);
    let world = World::new();
    for _ in 0..2 {
        let (leftovers, _) = swept(&place, &world).await;
        let paths: Vec<_> = leftovers.iter().map(|left| left.resource.to_string()).collect();
        let expected: Vec<_> = foreign.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, expected);
        assert!(precious.join("deep").exists() && precious.join("Cargo.lock").exists());
    }
}

#[tokio::test]
async fn the_fake_removes_nothing_that_is_not_a_tests_own() {
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let place = Place::new();
    let root = place.dir.path().to_owned();
    let provider = World::new().provider();
    // Only paths whose loss would harm nobody: the guard itself is under test here.
    for path in [file.clone(), root.clone(), root.join("x/../..").join(other.path().file_name().unwrap())] {
        let _ = crate::provider::Provider::remove(&provider, &Resource::Path { path }).await;
        assert!(file.exists() && root.exists());
    }
}

#[tokio::test(start_paused = true)]
async fn journals_that_make_no_sense_are_left_alone() {
    let place = Place::new();
    let world = World::new();
    assert_eq!(swept(&place, &world).await, (vec![], vec![]), "no runs yet");
    for (run, text) in [
        ("20261124t145112-000001", &b"\x00\xff rubbish\n{\"record\":\"done\"}\n"[..]),
        ("20261124t145112-000002", b""),
        ("20261124t145112-000003", b"{\"record\":\"opened\",\"schema\":9,\"owner\":{\"pid\":1,\"started\":1}}\n"),
        ("not a run", b"{\"record\":\"armed\",\"resource\":{\"resource\":\"path\",\"path\":\"/nowhere/x\"}}\n"),
    ] {
        std::fs::create_dir_all(place.runs().join(run)).unwrap();
        std::fs::write(place.runs().join(run).join(JOURNAL), text).unwrap();
    }
    std::fs::create_dir_all(place.runs().join("20261124t145112-000004")).unwrap();
    let (leftovers, warnings) = swept(&place, &world).await;
    assert_eq!(leftovers, []);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("000001/journal.jsonl is left alone: line 1 is not a record"), "{warnings:?}");
    assert!(warnings[1].contains("it is of format 9, this amibake knows 1"), "{warnings:?}");
}

/// A journal that takes so many records and no more, or all but one.
struct Fuse {
    file: std::fs::File,
    written: usize,
    blows_at: usize,
    for_good: bool,
}

impl Write for Fuse {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.written += 1;
        let number = self.written - 1;
        if number == self.blows_at || (self.for_good && number > self.blows_at) {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.file.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_leaves_nothing_or_the_image() {
    let mut failed = 0;
    for (blows_at, for_good) in (0..40).flat_map(|write| [(write, true), (write, false)]) {
        let (place, world) = (Place::new(), World::new());
        let job = place.job();
        std::fs::create_dir_all(&job.run_dir).unwrap();
        std::fs::create_dir_all(&job.dist_dir).unwrap();
        std::fs::write(job.run_dir.join(LOG), "").unwrap();
        let file = std::fs::File::create(job.run_dir.join(JOURNAL)).unwrap();
        let undo = Undo::over(Journal::over(Box::new(Fuse { file, written: 0, blows_at, for_good })));
        let cancel = CancellationToken::new();
        let result = run::carry_out(&job, &world.provider(), &Reporter::silent(), &cancel, &undo).await;
        let context = format!("write {blows_at}, for good: {for_good}");
        match result {
            Ok(_) => place.assert_baked(&world, &context),
            Err(error) => {
                failed += 1;
                assert_eq!(error.to_string(), "cannot write the run's journal", "{context}");
                place.assert_clean(&world, &context);
            }
        }
    }
    // Two for the machine, one for the folder, two for each snapshot, two for what the test boot takes: each for good and
    // only once. Its two removals go on without their record; for good, what comes after them fails.
    assert_eq!(failed, 2 * (3 + 2 * fake::SNAPSHOTS + 2) + 2);
}

#[tokio::test(start_paused = true)]
async fn unwinding_twice_is_safe_and_a_forgotten_undo_complains() {
    let (place, world, memory) = (Place::new(), World::new(), Arc::new(Memory::default()));
    let reporter = Reporter::new("", vec![memory.clone()]);
    let undo = Undo::open(&place.dir.path().join("one")).unwrap().reporting(&reporter);
    undo.arm(Resource::Process { pid: 0x7000_0001, started: 1 }).unwrap();
    world.fail_removals(2);
    assert_eq!(undo.unwind(&world.provider()).await.len(), 1);
    assert_eq!(undo.unwind(&world.provider()).await, []);
    assert_eq!(undo.unwind(&world.provider()).await, []);
    drop(undo);
    assert_eq!(memory.warnings(), [] as [&str; 0]);

    let undo = Undo::open(&place.dir.path().join("two")).unwrap().reporting(&reporter);
    undo.arm(Resource::Process { pid: 7, started: 1 }).unwrap();
    drop(undo);
    assert_eq!(memory.warnings(), ["not removed: process 7; the next build will"]);
    // A journal is one run's: a second of the same name is not written over.
    assert_eq!(Undo::open(&place.dir.path().join("two")).unwrap_err().exit(), crate::Exit::Host);
}

#[tokio::test]
async fn only_the_newest_finished_runs_keep_their_folders() {
    let place = Place::new();
    let folder = |number: usize| place.runs().join(format!("20261124t1451{number:02}-000000"));
    for number in 0..25 {
        std::fs::create_dir_all(folder(number)).unwrap();
        let undo = Undo::open(&folder(number).join(JOURNAL)).unwrap();
        // Of the oldest, one left something on purpose and one never came to its end.
        match number {
            0 => {
                let path = folder(0).join("machine");
                undo.arm(Resource::Path { path: path.clone() }).unwrap();
                undo.leave(&Resource::Path { path }).unwrap();
                undo.unwind(&World::new().provider()).await;
            }
            1 => {}
            _ => assert_eq!(undo.unwind(&World::new().provider()).await, []),
        }
        drop(undo);
        if number != 1 {
            bury(&folder(number));
        }
    }
    assert_eq!(swept(&place, &World::new()).await, (vec![], vec![]));
    let there: Vec<usize> = (0..25).filter(|number| folder(*number).exists()).collect();
    assert_eq!(there, [vec![0, 1], (5..25).collect()].concat());
}
