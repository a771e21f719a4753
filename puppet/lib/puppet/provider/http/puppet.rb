# frozen_string_literal: true

require_relative '../../../puppet_x/bridgeward/client'

Puppet::Type.type(:http).provide(:puppet) do
  desc "Puppet's own HTTP client (Puppet 7, 8 and OpenVox)."

  # What came of the request, for the log.
  attr_reader :outcome

  # @param method [String] GET or POST
  # @raise [Puppet::Error] with the reason, when it was not accepted
  def send_request(method)
    @outcome = PuppetX::Bridgeward::Client.new(resource).send_request(method)
  end
end
