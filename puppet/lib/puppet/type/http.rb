# frozen_string_literal: true

require_relative '../../puppet_x/bridgeward/signature'

Puppet::Type.newtype(:http) do
  @doc = <<~'DOC'
    Sends one HTTPS request to a gateway, as the node that this is: with the agent's certificate, trusting the Puppet CA.

    The title is the route:

        http { 'kick_haproxy_app_internal':
          ensure => get,
          fqdn   => 'gateway.example.com',
          port   => 8443,
        }

    Each run of the agent sends the request once, as each run of the agent runs an `exec`; with `refreshonly => true`
    only a run in which a resource that notifies this one has changed. With `noop` nothing is sent. An answer that is
    not expected fails the resource with the gateway's reason, and so does no answer.

    When an attempt fails in a way that another may mend (no connection, no answer in time, status 429, 502, 503, 504),
    it is repeated as often as `retries` says, with the same `Idempotency-Key` and, if signed, the same nonce: however
    often the message arrives, the gateway takes it as one.

    With `key` and `secret` the request is signed, too (RFC 9421, hmac-sha256).

    **Autorequires:** nothing. Order it after what it reports: `require => Service['app']`.
  DOC

  # One gateway may be told the same as another, and one route twice: the title is not an identity.
  @isomorphic = false

  ensurable do
    desc 'How the request is sent: `get`, or `post` with `data` as its body.'

    newvalue(:get) { provider.send_request('GET') }
    newvalue(:post) { provider.send_request('POST') }

    # What was sent cannot be found out afterwards, so it is always still to be sent, except where only a refresh sends.
    def retrieve
      (resource[:refreshonly] == :true) ? should : :absent
    end

    def change_to_s(_current, _wanted)
      provider.outcome
    end
  end

  newparam(:route, namevar: true) do
    desc 'The path of the route, with or without its leading `/`, and with a query if there is one. Default: the title.'

    validate do |value|
      unless value.is_a?(String) && value.match?(%r{\A[!-~]{1,2000}\z}) && !value.include?('#')
        raise ArgumentError, 'a route is a path of printable ASCII without spaces or `#`; percent-encode the rest'
      end
    end
    munge { |value| value.start_with?('/') ? value : "/#{value}" }
  end

  newparam(:fqdn) do
    desc "The gateway's host name, as its certificate says it. Must be given."

    validate do |value|
      unless value.is_a?(String) && value.match?(%r{\A[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\z})
        raise ArgumentError, 'fqdn is a host name, without scheme, port or path'
      end
    end
  end

  newparam(:port) do
    desc "The gateway's port. Default: 8443."

    defaultto 8443
    validate do |value|
      unless value.to_s.match?(%r{\A\d{1,5}\z}) && value.to_i.between?(1, 65_535)
        raise ArgumentError, 'port is a number from 1 to 65535'
      end
    end
    munge { |value| Integer(value.to_s, 10) }
  end

  newparam(:scheme) do
    desc '`https`, or `http` for something that is no gateway: without TLS there is no certificate, and everybody reads along.'

    defaultto :https
    newvalues(:https, :http)
  end

  newparam(:data) do
    desc 'What is sent as JSON, with `ensure => post`: a hash, as a rule. May be Sensitive, whole or in part.'
  end

  newparam(:header) do
    desc <<~'DOC'
      The content type as a string, or a hash of headers. Default with `post`: `application/json`. An `Idempotency-Key`
      of your own makes the message the same in every run. What belongs to the connection or to a signature cannot be set.
    DOC

    validate do |value|
      headers = value.is_a?(Hash) ? value : { 'Content-Type' => value }
      headers.each do |name, text|
        unless name.is_a?(String) && name.match?(%r{\A[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\z})
          raise ArgumentError, 'the names of headers consist of letters, digits and -'
        end
        if %w[connection content-digest content-length host signature signature-input transfer-encoding].include?(name.downcase)
          raise ArgumentError, "the header #{name} is made by the request itself"
        end
        unless text.is_a?(String) && text.match?(%r{\A[ -~]{0,4000}\z})
          raise ArgumentError, "the header #{name} must be a string of printable ASCII"
        end
      end
      if headers.keys.map(&:downcase).uniq.size < headers.size
        raise ArgumentError, 'a header can be given once'
      end
    end
    munge { |value| value.is_a?(Hash) ? value : { 'Content-Type' => value } }
  end

  newparam(:timeout) do
    desc 'Seconds that one attempt may take, from name resolution to the end of the answer. Default: 30.'

    defaultto 30
    validate do |value|
      unless value.to_s.match?(%r{\A\d{1,6}(\.\d+)?\z}) && value.to_f.positive?
        raise ArgumentError, 'timeout is a number of seconds above 0'
      end
    end
    munge { |value| Float(value) }
  end

  newparam(:expect, array_matching: :all) do
    desc 'The statuses that are a success, one or an array. Default: 200 and 202.'

    defaultto [200, 202]
    validate do |value|
      Array(value).each do |status|
        unless status.to_s.match?(%r{\A[1-5]\d\d\z})
          raise ArgumentError, 'expect holds HTTP statuses, such as 202'
        end
      end
    end
    munge { |value| Array(value).map { |status| Integer(status.to_s, 10) } }
  end

  newparam(:retries) do
    desc <<~'DOC'
      How often a failed attempt is repeated, 0 to 100. Default: 2. The pause is what the gateway asks for
      (`Retry-After`), else 1 second, then twice as long each time; at most 60 seconds.
    DOC

    defaultto 2
    validate do |value|
      unless value.to_s.match?(%r{\A\d{1,3}\z}) && value.to_i <= 100
        raise ArgumentError, 'retries is a number from 0 to 100'
      end
    end
    munge { |value| Integer(value.to_s, 10) }
  end

  newparam(:key) do
    desc 'The name of the key in the policy of the gateway; with `secret`.'

    validate do |value|
      unless value.is_a?(String) && value.match?(PuppetX::Bridgeward::Signature::KEY)
        raise ArgumentError, 'a key is named by letters, digits, `.`, `_` and `-`'
      end
    end
  end

  newparam(:secret) do
    desc 'The secret of that key, as Sensitive[String]: anything else is refused. The catalogue on the node holds it.'

    validate do |value|
      unless value.is_a?(String) && value.bytesize >= 16
        raise ArgumentError, 'secret is a string of at least 16 bytes'
      end
    end
    # Whatever prints parameters prints that it is redacted.
    munge { |value| Puppet::Pops::Types::PSensitiveType::Sensitive.new(value) }
  end

  newparam(:refreshonly, boolean: true) do
    desc 'Whether to send only when a resource that notifies this one has changed. Default: false.'

    defaultto :false
    newvalues(:true, :false)
  end

  validate do
    raise Puppet::Error, 'ensure is needed: `get` or `post`' unless self[:ensure]
    raise Puppet::Error, 'fqdn is needed: the host name of the gateway' unless self[:fqdn]
    if self[:key].nil? != self[:secret].nil?
      raise Puppet::Error, 'key and secret belong together: give both or neither'
    end
    if !self[:data].nil? && self[:ensure] != :post
      raise Puppet::Error, 'data is sent with `ensure => post` only'
    end
  end

  # What was notified before this resource's turn was sent in its turn, so that a refresh adds nothing then.
  def refresh
    return unless self[:refreshonly] == :true

    provider.send_request(self[:ensure].to_s.upcase)
    notice(provider.outcome)
  end

  # Puppet keeps what it was given beside the parameters, and Ruby prints that in some errors.
  def inspect
    ref
  end

  # Parameters are in no event and in no report; only a secret that Puppet does not know to be one is refused.
  def set_sensitive_parameters(sensitive_parameters)
    own = [:data, :header, :secret]
    if self[:secret] && !sensitive_parameters.include?(:secret)
      raise Puppet::Error, "secret must be Sensitive: `secret => Sensitive('...')`, or a lookup with `convert_to: Sensitive`"
    end

    own.each { |name| parameter(name).sensitive = true if sensitive_parameters.include?(name) && parameter(name) }
    super(sensitive_parameters - own)
  end
end
