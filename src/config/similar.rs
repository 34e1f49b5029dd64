//! "Did you mean": the known word nearest to an unknown one.

/// The word of `known` that `word` is most likely a slip of, if any is near enough: about one slip in three
/// letters.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    if word.len() > 64 {
        return None;
    }
    let near = known.iter().map(|candidate| (distance(&word, candidate), *candidate));
    let (slips, best) = near.min_by_key(|(slips, _)| *slips)?;
    (slips <= best.len().div_ceil(3).min(3)).then_some(best)
}

/// Letters added, dropped, replaced, or two neighbours swapped (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_else() {
        let known = ["address", "name", "trusted", "max_message", "tls"];
        assert_eq!(nearest("adress", &known), Some("address"));
        assert_eq!(nearest("nmae", &known), Some("name"));
        assert_eq!(nearest("max-message", &known), Some("max_message"));
        assert_eq!(nearest("Trusted", &known), Some("trusted"));
        assert_eq!(nearest("tsl", &known), Some("tls"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"n".repeat(100_000), &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
