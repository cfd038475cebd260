use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote_spanned};
use syn::{Error, Expr, Path, Result};

use crate::arguments::{Arguments, unwrapped};
use crate::function::Function;
use crate::output::{Form, Output};

const GRACE: &str = "a grace is for futures: this function is not async, and ends at its next checkpoint";
const TOKIO: &str = "write #[timeboxed] above tokio's attribute: below it, it sees no async function";

pub(crate) fn expand(arguments: &Arguments, mut function: Function) -> Result<TokenStream> {
    if is_from_tokio(&function) {
        return Err(Error::new(Span::call_site(), TOKIO));
    }
    let output = Output::of(&function.signature)?;
    if let (Form::Block, Some(grace)) = (output.form, &arguments.grace) {
        return Err(Error::new_spanned(grace, GRACE));
    }
    let expansion = Expansion::new(arguments, &function.body, &output);
    let body = match output.form {
        Form::Block => expansion.of_block(),
        Form::AsyncFn => expansion.of_async_fn(),
        Form::Future | Form::BoxedFuture => expansion.of_future(),
    };
    function.body = Group::new(Delimiter::Brace, body);
    Ok(function.into_token_stream())
}

/// Whether `#[tokio::main]` or `#[tokio::test]` has changed the function already: from an async function into a
/// function that runs a future on a runtime.
fn is_from_tokio(function: &Function) -> bool {
    let tokens: Vec<TokenTree> = function.body.stream().into_iter().collect();
    let begins =
        tokens.iter().zip(["let", "body", "=", "async"]).all(|(token, word)| token.to_string() == word);
    function.signature.asyncness.is_none()
        && begins
        && matches!(tokens.last(), Some(TokenTree::Group(end)) if end.to_string().contains("block_on"))
}

/// Tokens whose local variables the user's code cannot see.
macro_rules! hygienic {
    ($($tokens:tt)*) => { quote_spanned!(Span::mixed_site()=> $($tokens)*) };
}

struct Expansion<'a> {
    arguments: &'a Arguments,
    body: &'a Group,
    output: &'a Output,
    /// The tokens `<R as Fallible>`, where `R` is the type of the function's result.
    fallible: TokenStream,
}

impl<'a> Expansion<'a> {
    fn new(arguments: &'a Arguments, body: &'a Group, output: &'a Output) -> Self {
        let (timebox, result) = (&arguments.timebox, &output.result);
        Self { arguments, body, output, fallible: hygienic!(<#result as #timebox::__private::Fallible>) }
    }

    fn of_block(&self) -> TokenStream {
        let (open, fallible, body) = (self.open(), &self.fallible, self.body);
        match self.fall_back() {
            None => hygienic! {
                #open
                #fallible::run(timebox, move || #body)
            },
            // Not `move`: the fallback may use the arguments that the body has borrowed.
            Some(fall_back) => hygienic! {
                #open
                let outcome = #fallible::run_or_else(timebox, || #body);
                #fall_back
            },
        }
    }

    fn of_async_fn(&self) -> TokenStream {
        let (open, fallible, body) = (self.open(), &self.fallible, self.body);
        // The type of an async block's output cannot be written down. So a `return` that is never reached tells the
        // type to the compiler. The body is an arm of a `match`, because in other places lints would complain about its
        // braces.
        let typed = hygienic!({
            if false {
                return #fallible::never();
            }
            match () {
                () => #body
            }
        });
        match self.fall_back() {
            None => hygienic! {
                #open
                #fallible::run_future(timebox, async move #typed).await
            },
            Some(fall_back) => hygienic! {
                #open
                let outcome = #fallible::run_future_or_else(timebox, async #typed).await;
                #fall_back
            },
        }
    }

    /// The body of a function that is not async and returns a future. Only the future is in the scope, not the code
    /// that the function runs before it returns the future.
    fn of_future(&self) -> TokenStream {
        let (timebox, open, fallible) = (&self.arguments.timebox, self.open(), &self.fallible);
        let (pin, future) = self.boxed_by_body().unwrap_or_else(|| {
            let (body, returned) = (self.body, &self.output.returned);
            let pin = (self.output.form == Form::BoxedFuture).then(|| hygienic!(::std::boxed::Box::pin));
            (pin.unwrap_or_default(), hygienic!(#timebox::__private::call_once(move || -> #returned #body)))
        });
        match self.fall_back() {
            None => hygienic! {
                #open
                let future = #future;
                #pin(#fallible::run_future(timebox, future))
            },
            Some(fall_back) => hygienic! {
                #open
                let future = #future;
                #pin(async move {
                    let outcome = #fallible::run_future_or_else(timebox, future).await;
                    #fall_back
                })
            },
        }
    }

    /// If the body is only `Box::pin(future)`, returns the path `Box::pin` and the future, so that the future is boxed
    /// only once. Otherwise returns `None`. The crate `async-trait` writes such bodies. A macro does not know what a
    /// path means, so any path that ends in `pin` counts.
    fn boxed_by_body(&self) -> Option<(TokenStream, TokenStream)> {
        let mut tokens: Vec<TokenTree> = self.body.stream().into_iter().collect();
        let Some(TokenTree::Group(future)) = tokens.pop() else { return None };
        let pin: TokenStream = tokens.into_iter().collect();
        let path = syn::parse2::<Path>(pin.clone()).ok()?;
        let is_pin = path.segments.last().is_some_and(|last| last.ident == "pin");
        let mut argument: Vec<TokenTree> = future.stream().into_iter().collect();
        argument.pop_if(|last| matches!(last, TokenTree::Punct(comma) if comma.as_char() == ','));
        (is_pin && future.delimiter() == Delimiter::Parenthesis)
            .then(|| (pin, argument.into_iter().collect()))
    }

    /// The statement that makes `timebox`. It evaluates the user's expressions. If they lock something, the lock is
    /// released at the end of this statement, so it is free when the body runs.
    fn open(&self) -> TokenStream {
        let Arguments { timebox, limit, label, grace, strict, .. } = self.arguments;
        let label = match label {
            Some(label) => label.into_token_stream(),
            None => hygienic! {{
                struct Function;
                #timebox::__private::path_of::<Function>()
            }},
        };
        let grace = grace.as_ref().map(|grace| hygienic!(.grace(#grace)));
        let strict = strict.then(|| hygienic!(.strict()));
        hygienic! {
            let timebox = #timebox::Timebox::new(#limit).label(#label) #grace #strict;
        }
    }

    /// The code that turns `outcome` into the function's result, and runs the fallback if the time was up. `None` if
    /// there is no fallback.
    fn fall_back(&self) -> Option<TokenStream> {
        let fallback = self.arguments.fallback.as_ref()?;
        let fallible = &self.fallible;
        let (timed_out, fallback) = match unwrapped(fallback) {
            Expr::Closure(_) | Expr::Path(_) => {
                (hygienic!(timed_out), hygienic!(#fallible::fall_back(timed_out, #fallback)))
            }
            value => (hygienic!(_), value.to_token_stream()),
        };
        let (ok, err) = (hygienic!(::core::result::Result::Ok), hygienic!(::core::result::Result::Err));
        Some(hygienic! {
            match outcome {
                #ok(#ok(value)) => #ok(value),
                #ok(#err(#timed_out)) => #fallback,
                #err(error) => #err(error),
            }
        })
    }
}
