# What a route runs; beside `steps`, any key of `[run]` in the policy's language.
type Bridgeward::Run = Hash[String[1], Any, 1]
