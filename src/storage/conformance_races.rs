//! Checks with many callers at a time: who wins, and what the others see.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{join, join_all};

use super::conformance::{Check, DirRename, Outcome, Trial};
use super::{
    CreateMode, Depth, ErrorKind, OwnedTree, Removal, Result as StorageResult, StoragePath, Touched,
};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("of contenders for a new file one wins", |trial| {
        Box::pin(create_new(trial))
    }),
    ("of contenders for a directory one wins", |trial| {
        Box::pin(create_dir(trial))
    }),
    ("contenders may make the same parents", |trial| {
        Box::pin(create_dir_all(trial))
    }),
    ("of contenders for a touch one creates", |trial| {
        Box::pin(touch(trial))
    }),
    ("of contenders for a name one rename wins", |trial| {
        Box::pin(rename_to_one(trial))
    }),
    ("of contenders for a source one rename wins", |trial| {
        Box::pin(rename_from_one(trial))
    }),
    ("of contenders for a delete one deletes", |trial| {
        Box::pin(delete(trial))
    }),
    (
        "readers see whole contents while they are replaced",
        |trial| Box::pin(replace(trial)),
    ),
    (
        "a listing has all that stays while others come and go",
        |trial| Box::pin(list(trial)),
    ),
    ("a tree that vanishes is left out of a listing", |trial| {
        Box::pin(vanishing(trial))
    }),
];

const CONTENDERS: usize = 32;

/// Runs all contenders at a time and tells the number of the one that won; the others must have failed
/// with `kind`.
async fn one_winner<Contender>(
    trial: &Trial<'_>,
    kind: ErrorKind,
    contend: impl Fn(usize) -> Contender,
) -> Outcome<usize>
where
    Contender: Future<Output = StorageResult<()>> + Send,
{
    let outcomes = join_all((0..CONTENDERS).map(contend)).await;
    let mut winners = Vec::new();
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(()) => winners.push(number),
            lost => trial.refused(lost, kind, &format!("contender {number}"))?,
        }
    }
    trial.same(&winners.len(), &1, "winners")?;
    Ok(winners.first().copied().unwrap_or_default())
}

async fn create_new(trial: &Trial<'_>) -> Outcome {
    let file = &trial.path("file");
    let content = |number: usize| format!("written by {number}").into_bytes();
    let winner = one_winner(trial, ErrorKind::AlreadyExists, |number| async move {
        trial.write(file, &content(number), CreateMode::New).await
    })
    .await?;
    trial
        .content(file, &content(winner), "the winner's")
        .await?;
    let listed = trial.ok(
        trial.storage.list(&trial.dir, Depth::Children).await,
        "list",
    )?;
    let visible = listed
        .iter()
        .filter(|entry| !entry.path.name().starts_with('.'));
    trial.same(&visible.count(), &1, "visible entries")
}

async fn create_dir(trial: &Trial<'_>) -> Outcome {
    let dir = &trial.path("dir");
    let kind = ErrorKind::AlreadyExists;
    one_winner(trial, kind, |_| trial.storage.create_dir(dir)).await?;
    trial.stat(dir).await.map(drop)
}

async fn create_dir_all(trial: &Trial<'_>) -> Outcome {
    let deep = trial.path_of("one/two/three");
    let made = join_all((0..CONTENDERS).map(|number| {
        let dir = deep.join(&format!("leaf-{}", number % 4));
        async move { trial.storage.create_dir_all(&dir).await }
    }));
    for made in made.await {
        trial.ok(made, "make the same parents")?;
    }
    let listed = trial.ok(trial.storage.list(&deep, Depth::Children).await, "list")?;
    trial.same(&listed.len(), &4, "leaves")
}

async fn touch(trial: &Trial<'_>) -> Outcome {
    let file = trial.path("file");
    let touched = join_all((0..CONTENDERS).map(|_| trial.storage.touch(&file))).await;
    let mut created = 0;
    for touched in touched {
        created += usize::from(trial.ok(touched, "touch")? == Touched::Created);
    }
    trial.same(&created, &1, "touches that created the file")
}

async fn rename_to_one(trial: &Trial<'_>) -> Outcome {
    let to = &trial.path("to");
    let from = &|number: usize| trial.path(&format!("from-{number}"));
    for number in 0..CONTENDERS {
        trial.put_empty(&from(number)).await?;
    }
    let winner = one_winner(trial, ErrorKind::AlreadyExists, |number| async move {
        trial.storage.rename(&from(number), to).await
    })
    .await?;
    trial.stat(to).await?;
    trial.absent(&from(winner), "the winner's source").await?;
    let listed = trial.ok(
        trial.storage.list(&trial.dir, Depth::Children).await,
        "list",
    )?;
    trial.same(&listed.len(), &CONTENDERS, "entries after the race")
}

async fn rename_from_one(trial: &Trial<'_>) -> Outcome {
    let from = match trial.capabilities.dir_rename {
        DirRename::Atomic => trial.make_dir("from").await?,
        DirRename::Unsupported => {
            // Without an atomic rename a file may have two names for a moment, so there is no race to win.
            let from = trial.make_dir("from").await?;
            let refused = trial.storage.rename(&from, &trial.path("to")).await;
            return trial.refused(refused, ErrorKind::Unsupported, "rename a directory");
        }
    };
    let from = &from;
    let to = &|number: usize| trial.path(&format!("to-{number}"));
    let winner = one_winner(trial, ErrorKind::NotFound, |number| async move {
        trial.storage.rename(from, &to(number)).await
    })
    .await?;
    trial.stat(&to(winner)).await?;
    let listed = trial.ok(
        trial.storage.list(&trial.dir, Depth::Children).await,
        "list",
    )?;
    trial.same(&listed.len(), &1, "entries after the race")
}

async fn delete(trial: &Trial<'_>) -> Outcome {
    let file = trial.path("file");
    trial.put_empty(&file).await?;
    let removals = join_all((0..CONTENDERS).map(|_| trial.storage.delete_file(&file))).await;
    let mut deleted = 0;
    for removal in removals {
        deleted += usize::from(trial.ok(removal, "delete")? == Removal::Deleted);
    }
    trial.same(&deleted, &1, "deletes that deleted the file")
}

async fn replace(trial: &Trial<'_>) -> Outcome {
    const VERSIONS: u8 = 5;
    let file = trial.path("file");
    // Each version has one byte all over, and a length of its own, over several blocks of a disk.
    let version = |number: u8| vec![number; 50_000 + 1_000 * usize::from(number)];
    trial.put(&file, &version(0)).await?;
    let ended = AtomicBool::new(false);
    let writing = async {
        let mut written = Ok(());
        for number in 1..=VERSIONS {
            written = trial
                .write(&file, &version(number), CreateMode::Replace)
                .await;
            if written.is_err() {
                break;
            }
        }
        ended.store(true, Ordering::Release);
        written
    };
    let reading = async {
        let mut last = 0;
        loop {
            let stop = ended.load(Ordering::Acquire);
            trial.stat(&file).await?;
            let small = trial.storage.read_small(&file, u64::MAX).await;
            let small = trial.ok(small, "read while it is replaced")?.to_vec();
            let streamed = trial.ok(trial.collect(&file).await, "stream while it is replaced")?;
            for content in [small, streamed] {
                let number = content.first().copied().unwrap_or_default();
                trial.expect(content == version(number), || {
                    format!("{} bytes that no one wrote so", content.len())
                })?;
                trial.expect(number >= last, || format!("version {number} after {last}"))?;
                last = number;
            }
            if stop {
                return trial.same(&last, &VERSIONS, "last version");
            }
            tokio::task::yield_now().await;
        }
    };
    let (written, read) = join(writing, reading).await;
    trial.ok(written, "replace")?;
    read
}

/// Calls `look` until `change` has run so many rounds, both at a time.
async fn look_while_changing<Change, Look>(
    rounds: usize,
    change: impl Fn(usize) -> Change + Send,
    look: impl Fn() -> Look + Send,
) -> Outcome
where
    Change: Future<Output = Outcome> + Send,
    Look: Future<Output = Outcome> + Send,
{
    let ended = AtomicBool::new(false);
    let changing = async {
        let mut changed = Ok(());
        for round in 0..rounds {
            changed = change(round).await;
            if changed.is_err() {
                break;
            }
        }
        ended.store(true, Ordering::Release);
        changed
    };
    let looking = async {
        loop {
            let stop = ended.load(Ordering::Acquire);
            look().await?;
            if stop {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    };
    let (changed, looked) = join(changing, looking).await;
    changed.and(looked)
}

async fn list(trial: &Trial<'_>) -> Outcome {
    const STAYING: usize = 200;
    const COMING: usize = 20;
    let stays = |number: usize| trial.path(&format!("stays-{number:03}"));
    let comes = &|number: usize| trial.path(&format!("{number:02}-comes-and-goes"));
    for made in
        join_all((0..STAYING).map(async |number| trial.put_empty(&stays(number)).await)).await
    {
        made?;
    }
    let expected = &(0..STAYING).map(stays).collect::<Vec<StoragePath>>();
    let change = |round: usize| async move {
        for number in 0..COMING {
            if round.is_multiple_of(2) {
                trial.put_empty(&comes(number)).await?;
            } else {
                trial.ok(trial.storage.delete_file(&comes(number)).await, "delete")?;
            }
        }
        Ok(())
    };
    let look = || async move {
        let listed = trial.storage.list(&trial.dir, Depth::Children).await;
        let listed = trial.ok(listed, "list while files come and go")?;
        let sorted = listed.is_sorted_by(|one, other| one.path < other.path);
        trial.expect(sorted, || "not sorted, or an entry twice".to_owned())?;
        let staying = listed
            .iter()
            .filter(|entry| entry.path.name().starts_with("stays"));
        trial.expect(staying.map(|entry| &entry.path).eq(expected), || {
            "an entry that stays is missing".to_owned()
        })
    };
    look_while_changing(10, change, look).await
}

async fn vanishing(trial: &Trial<'_>) -> Outcome {
    const DIRS: usize = 4;
    let dir = &|number: usize| trial.path(&format!("dir-{number}.stepdown"));
    trial.put_empty(&trial.path("stays")).await?;
    let change = |_| async move {
        for number in 0..DIRS {
            let leaf = dir(number).join("sub");
            trial.ok(
                trial.storage.create_dir_all(&leaf).await,
                "make a directory",
            )?;
            trial.put_empty(&leaf.join("file")).await?;
        }
        for number in 0..DIRS {
            if let Some(owned) = OwnedTree::claim(dir(number)) {
                trial.ok(trial.storage.delete_tree(&owned).await, "delete a tree")?;
            }
        }
        Ok(())
    };
    let look = || async move {
        let listed = trial.storage.list(&trial.dir, Depth::Tree).await;
        let listed = trial.ok(listed, "list a tree while parts of it vanish")?;
        let stays = trial.path("stays");
        trial.expect(listed.iter().any(|entry| entry.path == stays), || {
            "an entry that stays is missing".to_owned()
        })
    };
    look_while_changing(10, change, look).await
}
