//! The examples that a user has given, by class.

use priorfit::data::Dataset;
use priorfit::{Error, Result};

use crate::picture::Picture;

/// Classes there are at most: more are no fun to draw.
pub const CLASSES_MAX: usize = 16;
/// Examples of a class at most.
pub const EXAMPLES_MAX: usize = 200;
/// Letters of a class's name at most.
const NAME_MAX: usize = 12;

/// Pictures by class.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    classes: Vec<Class>,
    /// The number that the next example gets.
    next: u64,
    /// Those that were removed, newest last, with their classes and places.
    removed: Vec<(usize, usize, Example)>,
}

/// What is to be told from the other classes.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name, which no other class has.
    pub name: String,
    /// Its examples, oldest first.
    pub examples: Vec<Example>,
}

/// A picture of a class.
#[derive(Clone, Debug)]
pub struct Example {
    /// No other example has it.
    pub number: u64,
    /// What it looks like.
    pub picture: Picture,
}

impl Examples {
    /// The ten digits, without examples.
    pub fn digits() -> Self {
        let class = |digit: u32| Class { name: digit.to_string(), examples: Vec::new() };
        Examples { classes: (0..10).map(class).collect(), ..Examples::default() }
    }

    /// The classes.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.classes.iter().map(|class| class.examples.len()).sum()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is something to tell apart.
    pub fn is_trainable(&self) -> bool {
        self.classes.iter().filter(|class| !class.examples.is_empty()).count() >= 2
    }

    /// Adds a class; gives its index.
    ///
    /// # Errors
    /// When the name is empty, too long or another class's, or there are too many classes.
    pub fn add_class(&mut self, name: &str) -> Result<usize> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > NAME_MAX {
            let message = format!("a class called {name:?}; expected 1 to {NAME_MAX} letters");
            return Err(Error::invalid(message));
        }
        if self.classes.iter().any(|class| class.name == name) {
            return Err(Error::invalid(format!("there is a class called {name:?} already")));
        }
        if self.classes.len() == CLASSES_MAX {
            return Err(Error::invalid(format!("there are {CLASSES_MAX} classes, and no more")));
        }
        self.classes.push(Class { name: name.to_string(), examples: Vec::new() });
        Ok(self.classes.len() - 1)
    }

    /// Adds an example to a class.
    ///
    /// # Errors
    /// When there is no such class, or it has enough.
    pub fn add(&mut self, class: usize, picture: Picture) -> Result<()> {
        let class = self
            .classes
            .get_mut(class)
            .ok_or_else(|| Error::invalid(format!("there is no class {class}")))?;
        if class.examples.len() >= EXAMPLES_MAX {
            let name = &class.name;
            let message = format!("{name:?} has {EXAMPLES_MAX} examples, and takes no more");
            return Err(Error::invalid(message));
        }
        class.examples.push(Example { number: self.next, picture });
        self.next += 1;
        Ok(())
    }

    /// Removes an example; one that is not there is not.
    pub fn remove(&mut self, number: u64) {
        for (index, class) in self.classes.iter_mut().enumerate() {
            if let Some(place) = class.examples.iter().position(|e| e.number == number) {
                self.removed.push((index, place, class.examples.remove(place)));
            }
        }
    }

    /// Whether an example can be put back.
    pub fn has_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Puts the example back that was removed last.
    pub fn put_back(&mut self) {
        if let Some((class, place, example)) = self.removed.pop() {
            let examples = &mut self.classes[class].examples;
            examples.insert(place.min(examples.len()), example);
        }
    }

    /// All of them as what an adaptation learns from. Classes without examples are left out.
    ///
    /// # Errors
    /// When fewer than two classes have examples.
    pub fn dataset(&self) -> Result<Dataset> {
        if !self.is_trainable() {
            return Err(Error::invalid("fewer than two classes have examples")
                .hint("draw some, and add them to their classes"));
        }
        let used: Vec<&Class> = self.classes.iter().filter(|c| !c.examples.is_empty()).collect();
        let labels: Vec<usize> = used
            .iter()
            .enumerate()
            .flat_map(|(label, class)| std::iter::repeat_n(label, class.examples.len()))
            .collect();
        let pictures = used.iter().flat_map(|class| class.examples.iter().map(|e| &e.picture));
        let names = used.iter().map(|class| class.name.clone()).collect();
        Dataset::from_images_u8(Picture::stack(pictures)?.view(), Some(&labels), names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Drawing;

    fn picture(x: f32) -> Picture {
        let mut drawing = Drawing::default();
        drawing.begin([x, 0.1]);
        drawing.extend([0.5, 0.9]);
        Picture::of_drawing(&drawing).expect("drawn").expect("not empty")
    }

    #[test]
    fn a_data_set_has_the_classes_that_have_examples() {
        let mut examples = Examples::digits();
        examples.add(3, picture(0.1)).expect("added");
        let error = examples.dataset().expect_err("one class").to_string();
        assert!(error.contains("fewer than two classes"), "{error}");
        examples.add(7, picture(0.5)).expect("added");
        examples.add(3, picture(0.9)).expect("added");
        let data = examples.dataset().expect("two classes");
        assert_eq!(data.classes(), ["3", "7"]);
        assert_eq!(data.labels(&[0, 1, 2]).expect("labels"), [0, 0, 1]);
    }

    #[test]
    fn what_is_removed_comes_back_where_it_was() {
        let mut examples = Examples::digits();
        (0..3).for_each(|i| examples.add(1, picture(0.2 * i as f32)).expect("added"));
        let before: Vec<u64> = examples.classes()[1].examples.iter().map(|e| e.number).collect();
        examples.remove(before[1]);
        examples.remove(before[0]);
        examples.remove(99);
        assert_eq!(examples.len(), 1);
        examples.put_back();
        examples.put_back();
        examples.put_back();
        let after: Vec<u64> = examples.classes()[1].examples.iter().map(|e| e.number).collect();
        assert_eq!(after, before);
        assert!(!examples.has_removed());
    }

    #[test]
    fn bounds_are_kept() {
        let mut examples = Examples::digits();
        for name in ["", "  ", "3", "a name that is far too long"] {
            assert!(examples.add_class(name).is_err(), "{name:?}");
        }
        (10..CLASSES_MAX)
            .for_each(|i| assert_eq!(examples.add_class(&i.to_string()).ok(), Some(i)));
        assert!(examples.add_class("one more").is_err());
        assert!(examples.add(CLASSES_MAX, picture(0.1)).is_err());
        (0..EXAMPLES_MAX).for_each(|_| examples.add(0, picture(0.1)).expect("room"));
        assert!(examples.add(0, picture(0.1)).is_err());
    }
}
