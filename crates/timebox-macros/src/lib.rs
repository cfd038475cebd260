//! The attribute `#[timeboxed]` of the crate [timebox](https://docs.rs/timebox). Use the attribute by way of that
//! crate, with its feature `macros`. The documentation is there, and the code that the attribute writes calls that
//! crate.

mod arguments;
mod duration;
mod expand;
mod function;
mod output;

use proc_macro::TokenStream;

use arguments::Arguments;

// Documented where `timebox` exports it.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn timeboxed(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse::<Arguments>(arguments)
        .and_then(|arguments| expand::expand(&arguments, syn::parse(item.clone())?));
    match expanded {
        Ok(function) => function.into(),
        // The function itself is kept. Otherwise each of its callers would get an error as well.
        Err(error) => TokenStream::from_iter([TokenStream::from(error.into_compile_error()), item]),
    }
}
