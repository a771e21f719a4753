# frozen_string_literal: true

require 'shellwords'

# Explains why a shell string is no command, and how it is written as one.
# @api private
Puppet::Functions.create_function(:'bridgeward::argv_hint') do
  # @param where the resource and route
  # @param command what was given
  # @return [String] a message
  dispatch :argv_hint do
    param 'String', :where
    param 'String', :command
    return_type 'String'
  end

  def argv_hint(where, command)
    message = "#{where}: command is a string, but there is no shell that would read it. "
    words = begin
      Shellwords.split(command)
    rescue ArgumentError
      []
    end
    if words.empty? || command.match?(%r{[|&;<>()$`*?\[\]#~!{}\n]|\A\w+=})
      message + 'What only a shell can do (pipes, redirections, variables, patterns) belongs into a script: ' \
                "command => ['/usr/local/bin/the-script', 'an argument', 'another']"
    else
      words[0] = "/usr/bin/#{words[0]}" unless words[0].start_with?('/')
      array = words.map { |word| "'#{word.gsub(%r{['\\]}) { |character| "\\#{character}" }}'" }.join(', ')
      "#{message}Write the program's absolute path and each argument as an element of an array: command => [#{array}]"
    end
  end
end
