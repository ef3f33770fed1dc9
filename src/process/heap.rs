//! The heap of this process.

/// From this size on a piece of memory is the system's own, and goes back to it when it is freed: what a
/// round over ten thousand markers needs for a moment leaves no holes in the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES: i32 = 64 << 10;

/// Has all threads of this process take their memory from one small heap. The C library gives each of them a
/// heap of its own else, and what is freed in one is of no use to the others: with ten thousand slots that
/// is a third of the memory. They wait for each other then, so it is for a process that is mostly idle. To
/// be said before there are other threads.
pub fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(
            unsafe_code,
            reason = "the C library has no safe name for it: it takes its own lock, and sets how many \
                      heaps are made from now on, and what is not taken from them"
        )]
        // SAFETY: see above.
        let _done = unsafe {
            (
                libc::mallopt(libc::M_ARENA_MAX, 1),
                libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
            )
        };
    }
}

/// Gives the memory that was freed back to the system, as far as the C library keeps it for later: after
/// a start, or when thousands of slots were busy at once, that is more than is used ever after. Takes
/// some milliseconds.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[expect(
            unsafe_code,
            reason = "the C library has no safe name for it: it takes its own locks, has no other effect than on pages \
                      that are free, and may be called at any time from any thread"
        )]
        // SAFETY: see above.
        let _gave_something = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_kb() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon"));
        let figure = line.unwrap().split_whitespace().nth(1).unwrap();
        figure.parse().unwrap()
    }

    #[test]
    fn what_was_freed_goes_back_although_the_rest_is_kept() {
        // Pieces that stay lie all over what is freed.
        let mut pieces: Vec<_> = (0..64 * 1024).map(|_| Some(vec![1_u8; 1024])).collect();
        for (at, piece) in pieces.iter_mut().enumerate() {
            if at % 512 != 0 {
                *piece = None;
            }
        }
        let before = resident_kb();
        give_back();
        let after = resident_kb();
        assert!(after + 32 * 1024 < before, "{before} kB, then {after} kB");
        assert_eq!(pieces.iter().flatten().count(), 128);
    }
}
