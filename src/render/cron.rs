//! A cron expression, as far as every target of a schedule understands it. One that no day ever fits is refused here:
//! CloudFormation would tell it late, and GitHub never.

use std::str::FromStr;

use crate::error::{Error, Result};

/// When: five fields, as `cron` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron([String; 5]);

/// What a field may hold. Names count from the field's least number.
struct Field {
    what: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const FIELDS: [Field; 5] = [
    Field { what: "minute", least: 0, most: 59, names: &[] },
    Field { what: "hour", least: 0, most: 23, names: &[] },
    Field { what: "day of the month", least: 1, most: 31, names: &[] },
    Field { what: "month", least: 1, most: 12, names: &MONTHS },
    // 0 and 7 are Sunday.
    Field { what: "day of the week", least: 0, most: 7, names: &WEEKDAYS },
];

/// The most days that each month has.
const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Field {
    /// Every number that `text` means.
    fn numbers(&self, text: &str) -> std::result::Result<Vec<u32>, String> {
        let mut all = Vec::new();
        for part in text.split(',') {
            let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                // `20/15` goes on to the end.
                None if step.is_some() => (self.number(range)?, self.most),
                None => (self.number(range)?, self.number(range)?),
            };
            if first > last {
                return Err(format!("`{range}` goes backwards: it takes two ranges with a comma between"));
            }
            let step = step.map_or(Ok(1), |step| match step.parse() {
                Ok(step) if (1..=self.most).contains(&step) => Ok(step),
                _ => Err(format!("`{part}`: a step is a number from 1 to {}", self.most)),
            })?;
            all.extend((first..=last).step_by(step as usize));
        }
        Ok(all)
    }

    fn number(&self, text: &str) -> std::result::Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let number = named.map_or_else(|| digits(text), |at| Some(self.least + at as u32));
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| {
            let names = match self.names {
                [first, .., last] => format!(" or {first} to {last}"),
                _ => String::new(),
            };
            format!("`{text}` is no {}: expected {} to {}{names}", self.what, self.least, self.most)
        })
    }
}

/// Digits alone: no sign.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl FromStr for Cron {
    type Err = String;

    // The text is pasted into other languages: only what was understood may pass.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let Ok(fields) = <[String; 5]>::try_from(fields) else {
            return Err("expected five fields: minute, hour, day, month, weekday: `17 4 * * 1-5`".to_owned());
        };
        let numbers: Vec<Vec<u32>> =
            FIELDS.iter().zip(&fields).map(|(field, text)| field.numbers(text)).collect::<Result<_, _>>()?;
        let [_, _, days, months, _] = numbers.as_slice() else { return Err("expected five fields".to_owned()) };
        let longest = months.iter().filter_map(|month| LONGEST.get(*month as usize - 1)).max();
        let never = longest.is_some_and(|longest| days.iter().all(|day| day > longest));
        // With a weekday, cron runs when either fits.
        if never && fields[4] == "*" {
            return Err(format!("`{} {}` never comes: no such month has that day", fields[2], fields[3]));
        }
        Ok(Self(fields))
    }
}

impl std::fmt::Display for Cron {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl Cron {
    /// EventBridge's form: a year behind, one of the two days a `?`, and days of the week counted from 1 for Sunday
    /// (EventBridge Scheduler User Guide, "Cron-based schedules").
    ///
    /// # Errors
    /// Exit 2 where it has no such form.
    pub(super) fn eventbridge(&self) -> Result<String> {
        let [minute, hour, day, month, weekday] = &self.0;
        let days = match (day.as_str(), weekday.as_str()) {
            (day, "*") => (day.to_owned(), "?".to_owned()),
            ("*", weekday) => ("?".to_owned(), from_sunday(weekday)),
            _ => {
                return Err(Error::usage(format!("`{self}` names days of the month and of the week"))
                    .with_hint("EventBridge takes one of the two: let the other be `*`"));
            }
        };
        Ok(format!("{minute} {hour} {} {} {} *", days.0, month.to_ascii_uppercase(), days.1))
    }
}

/// cron counts weekdays from 0 for Sunday (7 is Sunday, too), EventBridge from 1 to 7. What has the same form
/// there keeps it; the rest (`5-7` would go backwards) is told day by day.
fn from_sunday(field: &str) -> String {
    let each = |part: &str| -> Vec<u32> {
        let numbers = FIELDS[4].numbers(part).unwrap_or_default();
        let mut days: Vec<u32> = numbers.iter().map(|day| day % 7 + 1).collect();
        days.sort_unstable();
        days.dedup();
        days
    };
    let parts = field.split(',').map(|part| {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let ends: Vec<Option<u32>> = range.split('-').map(digits).collect();
        match ends.as_slice() {
            [Some(day)] if step.is_none() => (day % 7 + 1).to_string(),
            [Some(first), Some(last)] if *last < 7 => {
                let step = step.map(|step| format!("/{step}")).unwrap_or_default();
                format!("{}-{}{step}", first + 1, last + 1)
            }
            _ if step.is_none() && range != "*" && ends.iter().all(Option::is_none) => part.to_ascii_uppercase(),
            _ => each(part).iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        }
    });
    parts.collect::<Vec<_>>().join(",")
}
