//! Whether messages do well together on one link: found by experiment.

use crate::limits::{COMPANY_FREE, COMPANY_TRY_EVERY};

/// What it costs a message to be answered behind another that left with it. Next to nothing where an upstream reads and
/// answers several at once; all of the other one's time where it deals with one after the other.
#[derive(Debug)]
pub(super) struct Company {
    /// Nanoseconds, on average; infinite: not known.
    cost: f32,
    /// Occasions let pass since the last trial.
    passed: u32,
}

/// The newest one's share in the average.
const SHARE: f32 = 1.0 / 8.0;

impl Company {
    pub(super) fn new() -> Company {
        Company { cost: f32::INFINITY, passed: 0 }
    }

    /// One was answered so many nanoseconds after the one before it.
    pub(super) fn heard(&mut self, nanos: u64) {
        let free = COMPANY_FREE.as_nanos() as f32;
        // A hiccup counts for no more than what is clearly too much.
        let cost = (nanos as f32).min(4.0 * free);
        self.cost = if self.cost.is_finite() { self.cost + SHARE * (cost - self.cost) } else { cost };
    }

    /// Is the next one to join another, though it might have a link for itself? Now and then, to find out.
    pub(super) fn is_welcome(&mut self) -> bool {
        if self.cost <= COMPANY_FREE.as_nanos() as f32 {
            return true;
        }
        self.passed += 1;
        let tries = self.passed >= COMPANY_TRY_EVERY;
        if tries {
            self.passed = 0;
        }
        tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of_joins(company: &mut Company, nanos: u64) -> f32 {
        let joins = (0..1_000).filter(|_| {
            let joins = company.is_welcome();
            if joins {
                company.heard(nanos);
            }
            joins
        });
        joins.count() as f32 / 1_000.0
    }

    #[test]
    fn it_is_sought_where_it_is_free_and_only_tried_where_it_is_not() {
        let mut company = Company::new();
        assert!(share_of_joins(&mut company, 1_000) > 0.95);
        assert!(share_of_joins(&mut company, 5_000_000) < 0.05);
        assert!(share_of_joins(&mut company, 1_000) > 0.4, "it has become better");
        // One hiccup among many changes nothing.
        company.heard(50_000_000);
        assert!(company.is_welcome());
    }
}
