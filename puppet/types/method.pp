# An HTTP method, in capitals.
type Bridgeward::Method = Pattern[/\A[A-Z]{1,20}\z/]
