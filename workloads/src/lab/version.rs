//! Order of Debian package versions (deb-version(7)).

use std::cmp::Ordering;

/// Compares two Debian versions: epoch, upstream part, revision.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = split_epoch(left);
    let (right_epoch, right) = split_epoch(right);
    let (left_upstream, left_revision) = split_revision(left);
    let (right_upstream, right_revision) = split_revision(right);
    left_epoch
        .cmp(&right_epoch)
        .then_with(|| compare_part(left_upstream, right_upstream))
        .then_with(|| compare_part(left_revision, right_revision))
}

fn split_epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    }
}

fn split_revision(version: &str) -> (&str, &str) {
    version.rsplit_once('-').unwrap_or((version, ""))
}

/// Alternates between a run of non-digits and a run of digits, as dpkg does.
fn compare_part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_run(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = split_run(right, |c| !c.is_ascii_digit());
        let (left_number, left_rest) = split_run(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_rest) = split_run(right_rest, |c| c.is_ascii_digit());
        let order = compare_text(left_text, right_text)
            .then_with(|| compare_number(left_number, right_number));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn split_run(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// `~` sorts before the end of the text, letters before everything else.
fn compare_text(left: &str, right: &str) -> Ordering {
    let rank = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => c as i64,
        Some(c) => c as i64 + 0x100,
    };
    let length = left.chars().count().max(right.chars().count());
    let (mut left, mut right) = (left.chars(), right.chars());
    for _ in 0..length {
        let order = rank(left.next()).cmp(&rank(right.next()));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn compare_number(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_dpkg_sorts_them() {
        let ascending = [
            "6.1.0-9",
            "6.1.0-47",
            "6.12.95-1~bpo12+1",
            "6.12.95-1",
            "6.12.117-1~deb12u1",
            "6.12.117-1",
            "6.12.117+deb12-1",
            "7.3.4-1~bpo13+1",
            "1:0.1-1",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare("1.0", "1.00"), Ordering::Equal);
    }
}
