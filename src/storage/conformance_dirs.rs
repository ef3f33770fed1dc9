//! Checks of directories: identity, listing, making, deleting.

use futures::stream::{self, StreamExt, TryStreamExt};

use super::conformance::{Check, Identities, Outcome, Trial};
use super::{
    CreateMode, Depth, DirIdentity, ErrorKind, FileKind, FileStat, OwnedTree, Removal, StoragePath,
};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("delete tree takes only marked trees", |trial| {
        Box::pin(delete_tree(trial))
    }),
    ("a directory has an identity of its own", |trial| {
        Box::pin(identity(trial))
    }),
    ("identify refuses what is no directory", |trial| {
        Box::pin(identify_refused(trial))
    }),
    ("children are listed sorted", |trial| {
        Box::pin(list_children(trial))
    }),
    ("a tree is listed sorted", |trial| {
        Box::pin(list_tree(trial))
    }),
    ("list refuses what is no directory", |trial| {
        Box::pin(list_refused(trial))
    }),
    ("every valid name is kept", |trial| Box::pin(names(trial))),
    ("a large directory is listed whole", |trial| {
        Box::pin(large_directory(trial))
    }),
    ("create dir all makes parents", |trial| {
        Box::pin(create_dir_all(trial))
    }),
    ("create dir is exclusive", |trial| {
        Box::pin(create_dir(trial))
    }),
    ("a directory tells when its names changed", |trial| {
        Box::pin(names_changed(trial))
    }),
];

/// What comes, goes and is renamed changes the time stamp of its directory, and what lies deeper or
/// is only read does not.
async fn names_changed(trial: &Trial<'_>) -> Outcome {
    let storage = trial.storage;
    let dir = trial.make_dir("dir").await?;
    let inner = dir.join("inner");
    trial.ok(storage.create_dir(&inner).await, "make inner")?;
    let write = async |path: &StoragePath, mode| {
        let written = trial.write(path, b"content", mode).await;
        trial.ok(written, &format!("write {path}"))
    };
    let (one, other) = (dir.join("one"), dir.join("other"));
    let mut before = trial.stat(&dir).await?.modified_at;
    for step in ["create", "rename", "replace", "scratch", "delete"] {
        trial.await_later(before).await?;
        match step {
            "create" => write(&one, CreateMode::New).await?,
            "rename" => trial.ok(storage.rename(&one, &other).await, step)?,
            "replace" => write(&other, CreateMode::Replace).await?,
            "scratch" => write(&one, CreateMode::Scratch).await?,
            _ => drop(trial.ok(storage.delete_file(&other).await, step)?),
        }
        let after = trial.stat(&dir).await?.modified_at;
        trial.expect(after > before, || {
            format!("{step}: the directory still has its time stamp {before}")
        })?;
        before = after;
    }
    trial.await_later(before).await?;
    trial.put_empty(&inner.join("deeper")).await?;
    trial.ok(storage.read_small(&one, 10).await, "read")?;
    let after = trial.stat(&dir).await?.modified_at;
    trial.same(
        &after,
        &before,
        "time stamp of a directory whose names stayed",
    )
}

async fn identity(trial: &Trial<'_>) -> Outcome {
    let storage = trial.storage;
    let (one, other) = (
        trial.make_dir("one.stepdown").await?,
        trial.make_dir("other").await?,
    );
    let identify = async |dir: &StoragePath| trial.ok(storage.identify_dir(dir).await, "identify");
    let first = identify(&one).await?;
    trial.same(&identify(&one).await?, &first, "identity, asked twice")?;
    trial.put_empty(&one.join("entry")).await?;
    trial.same(
        &identify(&one).await?,
        &first,
        "identity after a change inside",
    )?;
    if trial.capabilities.identities == Identities::None {
        return trial.same(&first, &DirIdentity::Unnumbered, "identity");
    }
    trial.expect(identify(&other).await? != first, || {
        format!("two directories have the identity {first:?}")
    })?;
    // An inode number may be used again at once, so the birth must be another one.
    trial
        .await_later(trial.stat(&one).await?.modified_at)
        .await?;
    remove(trial, &one).await?;
    trial.ok(storage.create_dir(&one).await, "make it again")?;
    trial.expect(identify(&one).await? != first, || {
        format!("a directory made again has the old identity {first:?}")
    })
}

async fn identify_refused(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    trial.put_empty(&file).await?;
    let refused = storage.identify_dir(&trial.path("missing")).await;
    trial.refused(refused, ErrorKind::NotFound, "identify a missing directory")?;
    let refused = storage
        .identify_dir(&trial.path("missing").join("dir"))
        .await;
    trial.refused(
        refused,
        ErrorKind::NotFound,
        "identify below a missing directory",
    )?;
    let refused = storage.identify_dir(&file).await;
    trial.refused(refused, ErrorKind::NotADirectory, "identify a file")?;
    let refused = storage.identify_dir(&file.join("dir")).await;
    trial.refused(refused, trial.below_file(), "identify below a file")?;
    let root = storage.identify_dir(&StoragePath::root()).await;
    trial.ok(root, "identify the root").map(drop)
}

/// Names around the slash in the order of bytes: `a`, `a-b`, `a.b`, `a/c`, `a0`.
async fn make_tree(trial: &Trial<'_>) -> Outcome {
    for dir in ["a", "a/c", "a/c/empty", "a0"] {
        let made = trial.storage.create_dir(&trial.path_of(dir)).await;
        trial.ok(made, "make a directory")?;
    }
    for file in ["B", "a-b", "a.b", "a/c/d", "a0/z", "b", "\u{e4}"] {
        trial.put_empty(&trial.path_of(file)).await?;
    }
    Ok(())
}

async fn list_children(trial: &Trial<'_>) -> Outcome {
    let empty = trial.storage.list(&trial.dir, Depth::Children).await;
    trial.same(
        &trial.ok(empty, "list an empty directory")?,
        &Vec::new(),
        "entries",
    )?;
    make_tree(trial).await?;
    let expected = ["B", "a", "a-b", "a.b", "a0", "b", "\u{e4}"];
    list_is(trial, &trial.dir, Depth::Children, &expected).await?;
    list_is(trial, &trial.path("a0"), Depth::Children, &["a0/z"]).await
}

async fn list_tree(trial: &Trial<'_>) -> Outcome {
    let empty = trial.storage.list(&trial.dir, Depth::Tree).await;
    trial.same(
        &trial.ok(empty, "list an empty tree")?,
        &Vec::new(),
        "entries",
    )?;
    make_tree(trial).await?;
    let expected = [
        "B",
        "a",
        "a-b",
        "a.b",
        "a/c",
        "a/c/d",
        "a/c/empty",
        "a0",
        "a0/z",
        "b",
        "\u{e4}",
    ];
    list_is(trial, &trial.dir, Depth::Tree, &expected).await?;
    list_is(
        trial,
        &trial.path("a"),
        Depth::Tree,
        &["a/c", "a/c/d", "a/c/empty"],
    )
    .await
}

/// The listing has exactly these paths, and says of each what a stat says.
async fn list_is(trial: &Trial<'_>, dir: &StoragePath, depth: Depth, expected: &[&str]) -> Outcome {
    let listed: Vec<FileStat> = trial.ok(trial.storage.list(dir, depth).await, "list")?;
    let found: Vec<&str> = listed
        .iter()
        .filter_map(|entry| entry.path.relative_to(&trial.dir))
        .collect();
    trial.same(&found.as_slice(), &expected, &format!("{depth:?} of {dir}"))?;
    for entry in &listed {
        trial.same(
            entry,
            &trial.stat(&entry.path).await?,
            "entry of the listing",
        )?;
    }
    Ok(())
}

async fn list_refused(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    trial.put_empty(&file).await?;
    for depth in [Depth::Children, Depth::Tree] {
        let refused = storage.list(&trial.path("missing"), depth).await;
        trial.refused(refused, ErrorKind::NotFound, "list a missing directory")?;
        let refused = storage.list(&file, depth).await;
        trial.refused(refused, ErrorKind::NotADirectory, "list a file")?;
        let refused = storage.list(&file.join("dir"), depth).await;
        trial.refused(refused, trial.below_file(), "list below a file")?;
    }
    Ok(())
}

async fn names(trial: &Trial<'_>) -> Outcome {
    let longest = trial.capabilities.name_bytes;
    let mut wanted = vec![
        "with blanks  inside".to_owned(),
        " blank first".to_owned(),
        "blank last ".to_owned(),
        "größe-日本語-🙂".to_owned(),
        // The same to look at, composed and not: two names.
        "\u{e9}".to_owned(),
        "e\u{301}".to_owned(),
        "100%25%2F%zz".to_owned(),
        "a+b=c&d?e#f".to_owned(),
        "*[a-z]{1,2}".to_owned(),
        "quote'double\"back\\slash".to_owned(),
        "$HOME`id`;|<>!^~".to_owned(),
        "...".to_owned(),
        ".hidden".to_owned(),
        "-rf".to_owned(),
        "UPPER".to_owned(),
        "upper".to_owned(),
        "x".repeat(longest),
        "y".repeat(longest - 1),
        "é".repeat(longest / 2),
    ];
    for name in &wanted {
        let file = trial.path(name);
        let written = trial.write(&file, b"", CreateMode::New).await;
        trial.ok(written, &format!("create {name:?}"))?;
        let again = trial.write(&file, b"", CreateMode::Replace).await;
        trial.ok(again, &format!("replace {name:?}"))?;
        trial.same(&trial.stat(&file).await?.path, &file, "path")?;
    }
    wanted.sort();
    let listed = trial.storage.list(&trial.dir, Depth::Children).await;
    let listed = trial.ok(listed, "list")?;
    let mut found: Vec<&str> = listed.iter().map(|entry| entry.path.name()).collect();
    // The order has a check of its own.
    found.sort_unstable();
    let expected: Vec<&str> = wanted.iter().map(String::as_str).collect();
    trial.same(&found, &expected, "names in the listing")?;
    for name in &wanted {
        let removal = trial.ok(trial.storage.delete_file(&trial.path(name)).await, "delete")?;
        trial.same(&removal, &Removal::Deleted, &format!("delete {name:?}"))?;
    }
    Ok(())
}

async fn large_directory(trial: &Trial<'_>) -> Outcome {
    const ENTRIES: usize = 3_000;
    const AT_A_TIME: usize = 64;
    let name = |number: usize| trial.path(&format!("marker-{number:04}"));
    stream::iter((0..ENTRIES).map(|number| Ok(name(number))))
        .try_for_each_concurrent(AT_A_TIME, async |file| trial.put_empty(&file).await)
        .await?;
    for depth in [Depth::Children, Depth::Tree] {
        let listed = trial.ok(trial.storage.list(&trial.dir, depth).await, "list")?;
        let right = listed.len() == ENTRIES
            && (0..ENTRIES)
                .map(name)
                .eq(listed.iter().map(|entry| entry.path.clone()));
        trial.expect(right, || {
            format!(
                "{} entries listed of {ENTRIES}, or not in order",
                listed.len()
            )
        })?;
    }
    let removed = stream::iter((0..ENTRIES).map(name))
        .map(async |file| trial.storage.delete_file(&file).await)
        .buffer_unordered(AT_A_TIME)
        .try_collect::<Vec<_>>()
        .await;
    let removed = trial.ok(removed, "delete")?;
    let deleted = removed
        .iter()
        .filter(|removal| **removal == Removal::Deleted);
    trial.same(&deleted.count(), &ENTRIES, "files deleted")?;
    list_is(trial, &trial.dir, Depth::Children, &[]).await
}

async fn create_dir_all(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    let deep = trial.path_of("one/two/three");
    trial.ok(
        storage.create_dir_all(&deep).await,
        "make three directories",
    )?;
    trial.same(&trial.stat(&deep).await?.kind, &FileKind::Dir, "kind")?;
    trial.put_empty(&deep.join("entry")).await?;
    trial.ok(storage.create_dir_all(&deep).await, "make what is there")?;
    trial.stat(&deep.join("entry")).await?;
    let root = storage.create_dir_all(&StoragePath::root()).await;
    trial.ok(root, "make the root")?;
    trial.put_empty(&file).await?;
    for blocked in [
        file.clone(),
        file.join("dir"),
        file.join("dir").join("deep"),
    ] {
        let refused = storage.create_dir_all(&blocked).await;
        trial.refused(
            refused,
            ErrorKind::NotADirectory,
            "make a directory over a file",
        )?;
    }
    trial.content(&file, b"", "after that").await
}

async fn create_dir(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    let dir = trial.make_dir("dir").await?;
    trial.put_empty(&dir.join("entry")).await?;
    trial.put_empty(&file).await?;
    for taken in [&dir, &file] {
        let refused = storage.create_dir(taken).await;
        trial.refused(
            refused,
            ErrorKind::AlreadyExists,
            "make a directory on a taken name",
        )?;
    }
    trial.stat(&dir.join("entry")).await?;
    let refused = storage.create_dir(&trial.path_of("missing/dir")).await;
    trial.refused(
        refused,
        ErrorKind::NotFound,
        "make a directory without a parent",
    )?;
    trial
        .absent(&trial.path("missing"), "the parent is not made by the way")
        .await?;
    let refused = storage.create_dir(&file.join("dir")).await;
    trial.refused(
        refused,
        ErrorKind::NotADirectory,
        "make a directory below a file",
    )
}

async fn delete_tree(trial: &Trial<'_>) -> Outcome {
    let storage = trial.storage;
    for foreign in ["checkpoint", "stepdown", "x.stepdow"] {
        let claimed = OwnedTree::claim(trial.path(foreign));
        trial.same(&claimed, &None, "claim of a tree without the mark")?;
    }
    let below_mark = OwnedTree::claim(trial.path("a.stepdown").join("checkpoint"));
    trial.same(
        &below_mark,
        &None,
        "claim of a tree that only lies below a mark",
    )?;

    let tree = trial.path(".copy.stepdown-staging");
    let sibling = trial.path(".copy.stepdown-staging-2");
    let deep = tree.join("deep").join("deeper");
    trial.ok(storage.create_dir_all(&deep).await, "make the tree")?;
    trial.put_empty(&deep.join("file")).await?;
    trial.put_empty(&tree.join("file")).await?;
    trial.put_empty(&sibling).await?;
    let Some(owned) = OwnedTree::claim(tree.clone()) else {
        return trial.expect(false, || "a marked tree cannot be claimed".to_owned());
    };
    for expected in [Removal::Deleted, Removal::Absent] {
        let removal = trial.ok(storage.delete_tree(&owned).await, "delete the tree")?;
        trial.same(&removal, &expected, "delete of a tree")?;
        trial.absent(&tree, "after its tree was deleted").await?;
    }
    trial.stat(&sibling).await.map(drop)
}

/// Deletes a tree with a marked name.
async fn remove(trial: &Trial<'_>, dir: &StoragePath) -> Outcome {
    let Some(owned) = OwnedTree::claim(dir.clone()) else {
        return trial.expect(false, || format!("{dir} has no marked name"));
    };
    let removal = trial.ok(trial.storage.delete_tree(&owned).await, "delete the tree")?;
    trial.same(&removal, &Removal::Deleted, "delete of a tree")
}
